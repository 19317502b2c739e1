"""The worker processes of one model, seen from the process that mixes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from sampling.errors import DualSamplingError, EngineDiedError
from sampling.processes.children import Message, environment, from_message
from sampling.processes.exits import ended

STOP_TIMEOUT_S = 10.0
END_TIMEOUT_S = 5.0  # from the end of a worker's pipe to its own


class Workers:
    """Starts one process a rank, tells all of them the same, hears what each says."""

    def __init__(self, name: str, devices: Sequence[int], memory: int, on_gpus: bool) -> None:
        """`name`: theta or teacher. `memory`: the descriptor of what is shared with them."""
        self._name, self._devices, self._on_gpus = name, tuple(devices), on_gpus
        self._failure: DualSamplingError | None = None
        self._processes: list[subprocess.Popen[bytes]] = []
        self._connections: list[Connection] = []
        self._port = _free_port()
        ranks = {"WORLD_SIZE": str(len(devices)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self._port)}
        if on_gpus:
            ranks["CUDA_VISIBLE_DEVICES"] = ",".join(_visible(device) for device in devices)
        try:
            for rank in range(len(devices)):
                self._start({**ranks, "RANK": str(rank), "LOCAL_RANK": str(rank)}, memory)
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        """By rank."""
        return [process.pid for process in self._processes]

    @property
    def are_alive(self) -> bool:
        """Whether nothing has been heard to the contrary."""
        return self._failure is None

    def send(self, name: str, *arguments: Any) -> None:
        """Give every rank a command, a method of `worker.Worker`. Raises as `receive` does."""
        if self._failure is not None:
            raise self._failure
        for rank, connection in enumerate(self._connections):
            try:
                connection.send((name, *arguments))
            except OSError:
                self._fail(rank)

    def receive(self, num_ranks: int) -> list[Any]:
        """One answer of each of the first ranks.

        Raises what any rank raised, under its own class (another exception than ours: EngineError), EngineDiedError
        when its process ended. The other ranks are ended then.
        """
        if self._failure is not None:
            raise self._failure
        answers: dict[int, Any] = {}
        while len(answers) < num_ranks:
            for ready in wait(self._connections):
                assert isinstance(ready, Connection)
                rank = self._connections.index(ready)
                try:
                    kind, payload = ready.recv()
                except (EOFError, OSError):
                    self._fail(rank)
                if kind == "error":
                    self._fail(rank, payload)
                answers[rank] = payload
        return [answers[rank] for rank in range(num_ranks)]

    def close(self) -> None:
        """End every worker: in order, and those that do not within 10 s, or after an error, at once."""
        if self._failure is None:
            with suppress(DualSamplingError):
                self.send("close")
            for process in self._processes:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_TIMEOUT_S)
        self._failure = self._failure or EngineDiedError(f"{self._name}'s workers are closed; make a new sampler")
        for process in self._processes:
            process.kill()
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):  # stuck in a driver, which nothing ends
                process.wait(END_TIMEOUT_S)
        for connection in self._connections:
            connection.close()
        for left in Path("/dev/shm").glob(f"{self._port}-*cpushm*"):  # vLLM's, of ranks on a CPU: 4 MiB each
            left.unlink(missing_ok=True)

    def _start(self, variables: dict[str, str], memory: int) -> None:
        ours, theirs = Pipe()
        self._connections.append(ours)
        # Not multiprocessing: its spawn imports the caller's main module again.
        command = (
            f"from sampling.processes.lifeline import end_with; end_with({theirs.fileno()});"
            f"from sampling.workers.worker import main; main({theirs.fileno()}, {memory})"
        )
        with theirs:
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-P", "-c", command],
                    stdin=subprocess.DEVNULL,
                    stdout=2,  # what it prints belongs to no one's output
                    pass_fds=[theirs.fileno(), memory],
                    env=environment(**variables),
                )
            )

    def _fail(self, rank: int, said: Message | None = None) -> None:
        """Raise what a rank said, or how it ended; a rank that was killed explains what the others say of it."""
        if said is None:
            with suppress(subprocess.TimeoutExpired):
                self._processes[rank].wait(END_TIMEOUT_S)
        killed = [place for place, process in enumerate(self._processes) if (process.poll() or 0) < 0]
        if said is None or killed:
            self._failure = self._death(killed[0] if killed else rank)
        else:
            self._failure = from_message(said, f" (in {self._who(rank)})")
        self.close()
        raise self._failure

    def _death(self, rank: int) -> EngineDiedError:
        code = self._processes[rank].poll()
        how = "closed its pipe but does not end" if code is None else f"ended {ended(code)}"
        return EngineDiedError(
            f"{self._who(rank)} {how}; what it printed stands in this process's log. Make a new sampler, or run the"
            " same command again: finished rows are kept. If it ends so again, lower kv_cache_memory_bytes or"
            " max_num_seqs"
        )

    def _who(self, rank: int) -> str:
        where = f", GPU {self._devices[rank]}" if self._on_gpus else ""
        return f"{self._name}'s worker {rank} of {len(self._devices)} (process {self._processes[rank].pid}{where})"


def _visible(device: int) -> str:
    """The name of a GPU that this process counts as `device`."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return seen.split(",")[device].strip() if seen else str(device)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
