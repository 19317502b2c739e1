"""The engine's own process: loads both models once, then samples shard after shard.

It speaks with the run over a pipe. The end of the pipe is the end of the run, and then it ends too, at once.
"""

from __future__ import annotations

import sampling.environment  # noqa: F401  isort: skip  (before vLLM, torch, transformers)

import logging
import os
import queue
import signal
import sys
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
from filelock import FileLock

from sampling.config import EngineConfig, MixtureConfig, ModelConfig, SamplingConfig
from sampling.errors import OutputError
from sampling.processes.children import Message, as_message
from sampling.prompts.dual_prompt import DualPrompt
from sampling.results import FailedRow
from sampling.served.config import HttpConfig
from tasks.run.parts import PartWriter, Totals
from tasks.store.durable import DISK_FULL
from tasks.worker.prometheus import Metrics

if TYPE_CHECKING:
    from tasks.store.mirror import Mirror

LOCK_TIMEOUT_S = 60.0  # an engine whose run is dead ends within a second


def main(descriptor: int) -> None:
    """Serve the run at the other end of a socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run ends this process in order
    os.set_inheritable(descriptor, False)
    EngineChild(Connection(descriptor)).serve()


class EngineChild:
    """One loaded sampler with the shard it is at."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._send_lock = threading.Lock()  # the part writer reports progress from its own thread
        self._requests: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
        self._writer: PartWriter | None = None
        self._metrics: Metrics | None = None
        self._mirror: Mirror | None = None

    def serve(self) -> None:
        """Load, then answer requests until the run says stop or ends. Any error ends the process."""
        threading.Thread(target=self._listen, name="listener", daemon=True).start()
        try:
            _, settings = self._requests.get()
            self._mirror = settings["mirror"]
            # Held until this process ends, so that a resumed run can wait for the last commit of a killed one.
            lock = FileLock(settings["lock"], thread_local=False)
            lock.acquire(timeout=LOCK_TIMEOUT_S)
            from sampling import DualSampler

            to_run = _ToRun(self._send)
            for name in ("sampling", "tasks"):
                logging.getLogger(name).setLevel(logging.INFO)
                logging.getLogger(name).addHandler(to_run)
            sampler = DualSampler(
                teacher=ModelConfig(**settings["teacher"]),
                theta=ModelConfig(**settings["theta"]),
                mixture=MixtureConfig(**settings["mixture"]),
                engine=EngineConfig(**settings["engine"]),
                http=HttpConfig(**settings["http"]),
            )
            parameters = SamplingConfig(**settings["sampling"])
            served = settings["metrics"]
            if served["port"] is not None:
                in_flight = settings["engine"]["max_num_seqs"]
                if settings["theta"]["url"]:
                    in_flight = settings["http"]["max_in_flight"]
                self._metrics = Metrics(served["port"], settings["run"], in_flight, served["address"])
            while True:
                _, shard = self._requests.get()
                self._sample(sampler, parameters, shard)
                self._send("done", {})
        except BaseException as error:
            traceback.print_exc()
            sys.stderr.flush()
            self._keep_finished()
            self._send("error", _as_message(error))
            os._exit(1)  # whatever state the engine is in, nothing of it is needed

    def _listen(self) -> None:
        while True:
            try:
                kind, payload = self._connection.recv()
            except (EOFError, OSError):
                os._exit(1)
            if kind == "stop":
                self._keep_finished()
                os._exit(0)
            self._requests.put((kind, payload))

    def _sample(self, sampler: Any, parameters: SamplingConfig, shard: dict[str, Any]) -> None:
        before = sampler.stats.as_dict()
        num_done = num_failed = 0

        def report() -> None:
            now = sampler.stats.as_dict()
            if self._metrics is not None:
                self._metrics.update(now)
            totals = _since(before, now)
            metrics = {"num_tokens": int(totals["num_tokens"]), "sampling_s": totals["total_s"]}
            self._send("progress", {"num_done": num_done, "num_failed": num_failed, **metrics})

        writer = self._writer = PartWriter(Path(shard["parts"]), uuid.uuid4().hex, report, self._mirror)
        for result in sampler.run(_read_prompts(shard["rows"]), parameters, skip=shard["skip"]):
            writer.add(result, _since(before, sampler.stats.as_dict()))
            num_done += 1
            num_failed += isinstance(result, FailedRow)
        writer.close()
        self._writer = None
        report()

    def _keep_finished(self) -> None:
        """The last commit; a disk, or a store, that does not take it costs sampling those rows again."""
        with suppress(OSError, OutputError):
            if self._writer is not None:
                self._writer.flush()

    def _send(self, kind: str, payload: dict[str, Any]) -> None:
        try:
            with self._send_lock:
                self._connection.send((kind, payload))
        except OSError:
            os._exit(1)  # the run is dead


class _ToRun(logging.Handler):
    """Shows this process's own log where the run shows its own, and in the engine's log."""

    def __init__(self, send: Callable[[str, dict[str, Any]], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        print(text, file=sys.stderr, flush=True)
        self._send("log", {"level": record.levelno, "text": text})


def _read_prompts(path: str) -> Iterator[DualPrompt]:
    with pq.ParquetFile(path) as rows:
        for batch in rows.iter_batches(1024, columns=["teacher_prompt", "theta_prompt", "id"]):
            for row in batch.to_pylist():
                yield DualPrompt(teacher=row["teacher_prompt"], theta=row["theta_prompt"], id=row["id"])


def _since(before: Totals, now: Totals) -> Totals:
    """What was done since; a maximum stays the sampler's own."""
    return {name: value if name.startswith("max_") else value - before[name] for name, value in now.items()}


def _as_message(error: BaseException) -> Message:
    """A full disk is no fault of the engine's."""
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        text = f"{error.strerror}; finished rows are kept: free space, then run the same command again"
        return {"error": "OutputError", "text": text}
    return as_message(error)
