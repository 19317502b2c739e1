"""The worker processes of one model, as the mixing process drives them."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from sampling.errors import DualSamplingError, EngineDiedError
from sampling.processes.child import Child
from sampling.processes.environment import PROXIES
from sampling.processes.errors import Message, from_message
from sampling.processes.exits import describe_exit

STOP_TIMEOUT_S = 10.0
END_TIMEOUT_S = 5.0  # from the end of a worker's pipe to its exit


class Workers:
    """Starts one process per rank, sends every command to all of them, receives their answers."""

    def __init__(self, name: str, devices: Sequence[int], memory: int, on_gpus: bool) -> None:
        """`name`: theta or teacher. `memory`: the descriptor of the shared memory."""
        self._name, self._devices, self._on_gpus = name, tuple(devices), on_gpus
        self._failure: DualSamplingError | None = None
        self._children: list[Child] = []
        self._port = _free_port()
        ranks = {"WORLD_SIZE": str(len(devices)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self._port)}
        if on_gpus:
            ranks["CUDA_VISIBLE_DEVICES"] = ",".join(_device_id(device) for device in devices)
        try:
            for rank in range(len(devices)):
                variables = {**ranks, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                # 2, stderr: keeps its prints out of this process's output
                child = Child("sampling.workers.worker:serve", 2, [memory], variables, keep=PROXIES)
                self._children.append(child)
                child.connection.send(memory)
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        """Process ids by rank."""
        return [child.process.pid for child in self._children]

    @property
    def are_alive(self) -> bool:
        """Whether no failure is known."""
        return self._failure is None

    def send(self, name: str, *arguments: Any) -> None:
        """Send every rank a command: a method name of `worker.Worker`, and arguments. Raises as `receive` does."""
        if self._failure is not None:
            raise self._failure
        for rank, child in enumerate(self._children):
            try:
                child.connection.send((name, *arguments))
            except OSError:
                self._fail(rank)

    def receive(self, num_ranks: int) -> list[Any]:
        """Return one answer of each of the first `num_ranks` ranks.

        Raises what any rank raised, under its own class (EngineError for exceptions that are not ours), or
        EngineDiedError when its process ended; all ranks are ended then.
        """
        if self._failure is not None:
            raise self._failure
        answers: dict[int, Any] = {}
        connections = [child.connection for child in self._children]
        while len(answers) < num_ranks:
            for ready in wait(connections):
                assert isinstance(ready, Connection)
                rank = connections.index(ready)
                try:
                    kind, payload = ready.recv()
                except (EOFError, OSError):
                    self._fail(rank)
                if kind == "error":
                    self._fail(rank, payload)
                answers[rank] = payload
        return [answers[rank] for rank in range(num_ranks)]

    def close(self) -> None:
        """End every worker: by command, or by SIGKILL after 10 s or an error."""
        if self._failure is None:
            with suppress(DualSamplingError):
                self.send("close")
            for child in self._children:
                with suppress(subprocess.TimeoutExpired):
                    child.process.wait(STOP_TIMEOUT_S)
        self._failure = self._failure or EngineDiedError(f"{self._name}'s workers are closed; make a new sampler")
        for child in self._children:
            child.process.kill()
        for child in self._children:
            child.kill(END_TIMEOUT_S)
        for file in Path("/dev/shm").glob(f"{self._port}-*cpushm*"):  # vLLM's, of CPU ranks: 4 MiB each
            file.unlink(missing_ok=True)

    def _fail(self, rank: int, message: Message | None = None) -> None:
        """Raise a rank's error, or EngineDiedError; a killed rank takes precedence, as the cause of others' errors."""
        if message is None:
            with suppress(subprocess.TimeoutExpired):
                self._children[rank].process.wait(END_TIMEOUT_S)
        killed = [index for index, child in enumerate(self._children) if (child.process.poll() or 0) < 0]
        if message is None or killed:
            self._failure = self._death(killed[0] if killed else rank)
        else:
            self._failure = from_message(message, f" (in {self._describe(rank)})")
        self.close()
        raise self._failure

    def _death(self, rank: int) -> EngineDiedError:
        code = self._children[rank].process.poll()
        how = "closed its pipe but does not end" if code is None else f"ended {describe_exit(code)}"
        return EngineDiedError(
            f"{self._describe(rank)} {how}; what it printed stands in this process's log. Make a new sampler, or run"
            " the same command again: finished rows are kept. If it ends so again, lower kv_cache_memory_bytes or"
            " max_num_seqs"
        )

    def _describe(self, rank: int) -> str:
        where = f", GPU {self._devices[rank]}" if self._on_gpus else ""
        return (
            f"{self._name}'s worker {rank} of {len(self._devices)} (process {self._children[rank].process.pid}{where})"
        )


def _device_id(device: int) -> str:
    """Return the CUDA_VISIBLE_DEVICES entry of this process's GPU number `device`."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return seen.split(",")[device].strip() if seen else str(device)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
