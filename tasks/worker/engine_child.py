"""The program of the engine's process: loads both models once, then samples one shard after another."""

from __future__ import annotations

import sampling.environment  # noqa: F401  isort: skip  (before vLLM, torch, transformers)

import logging
import os
import queue
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
from filelock import FileLock

from sampling.config import SamplingConfig
from sampling.errors import OutputError
from sampling.prompts.dual_prompt import DualPrompt
from sampling.results import FailedRow
from tasks.config import PipelineConfig
from tasks.run.parts import PartWriter, Totals
from tasks.store.durable import DISK_FULL
from tasks.worker.prometheus import Metrics

if TYPE_CHECKING:
    from tasks.store.mirror import Mirror

LOCK_TIMEOUT_S = 60.0  # the engine of a run that was killed ends within a second


def serve(connection: Connection) -> None:
    """Answer the requests of an `EngineProcess` at the other end of a pipe (see `sampling.processes.child`)."""
    EngineChild(connection).serve()


class EngineChild:
    """A loaded sampler with the writer of the shard that it samples.

    Requests are ("load", config, run, lock, mirror), then ("sample", rows, parts, skip) for each shard, and ("stop",)
    at any time. Replies are "log", "progress" and "done".
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._send_lock = threading.Lock()  # the part writer reports progress from its own thread
        self._requests: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
        self._writer: PartWriter | None = None
        self._metrics: Metrics | None = None
        self._mirror: Mirror | None = None

    def serve(self) -> None:
        """Load the models, then sample the requested shards until the parent ends. Any error ends the process."""
        threading.Thread(target=self._listen, name="listener", daemon=True).start()
        try:
            _, load = self._requests.get()
            config: PipelineConfig = load["config"]
            self._mirror = load["mirror"]
            # Held until this process ends, so that a resumed run can wait for the last commit of a killed one.
            lock = FileLock(load["lock"], thread_local=False)
            lock.acquire(timeout=LOCK_TIMEOUT_S)
            from sampling import DualSampler

            handler = _LogHandler(self._send)
            for name in ("sampling", "tasks"):
                logging.getLogger(name).setLevel(logging.INFO)
                logging.getLogger(name).addHandler(handler)
            sampler = DualSampler(
                teacher=config.models.teacher,
                theta=config.models.theta,
                mixture=config.mixture,
                engine=config.engine,
                http=config.http,
                bounds=config.bounds,
            )
            if (port := config.metrics.port) is not None:
                in_flight = config.http.max_in_flight if config.models.theta.urls else config.engine.max_num_seqs
                self._metrics = Metrics(port, load["run"], in_flight, config.metrics.address)
            while True:
                _, shard = self._requests.get()
                self._sample(sampler, config.sampling, shard)
                self._send("done", {})
        except BaseException as error:
            self._commit_finished()
            self._send_lock.acquire()  # never released: the error is this process's last message
            if isinstance(error, OSError) and error.errno in DISK_FULL:  # not a fault of the engine
                raise OutputError(
                    f"{error.strerror}; finished rows are kept: free space, then run the same command again"
                ) from error
            raise

    def _listen(self) -> None:
        while True:
            try:
                kind, payload = self._connection.recv()
            except (EOFError, OSError):
                os._exit(1)
            if kind == "stop":
                self._commit_finished()
                os._exit(0)
            self._requests.put((kind, payload))

    def _sample(self, sampler: Any, parameters: SamplingConfig, shard: dict[str, Any]) -> None:
        before = sampler.stats.as_dict()
        num_done = num_failed = 0

        def report() -> None:
            now = sampler.stats.as_dict()
            if self._metrics is not None:
                self._metrics.update(now)
            totals = _difference(before, now)
            counts = {"num_done": num_done, "num_failed": num_failed, "num_tokens": int(totals["num_tokens"])}
            self._send("progress", {**counts, "sampling_s": totals["total_s"]})

        writer = self._writer = PartWriter(shard["parts"], uuid.uuid4().hex, report, self._mirror)
        for result in sampler.run(_read_prompts(shard["rows"]), parameters, skip=shard["skip"]):
            writer.add(result, _difference(before, sampler.stats.as_dict()))
            num_done += 1
            num_failed += isinstance(result, FailedRow)
        writer.close()
        self._writer = None
        report()

    def _commit_finished(self) -> None:
        """Commit what is finished; rows that the disk or the store refuses now are sampled again."""
        try:
            if self._writer is not None:
                self._writer.flush()
        except (OSError, OutputError) as error:
            print(f"finished rows are not committed: {error}", file=sys.stderr, flush=True)

    def _send(self, kind: str, payload: dict[str, Any]) -> None:
        try:
            with self._send_lock:
                self._connection.send((kind, payload))
        except OSError:
            os._exit(1)  # the parent has ended


class _LogHandler(logging.Handler):
    """Sends log records to the parent, and prints them into the engine's log file."""

    def __init__(self, send: Callable[[str, dict[str, Any]], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        print(text, file=sys.stderr, flush=True)
        self._send("log", {"level": record.levelno, "text": text})


def _read_prompts(path: Path) -> Iterator[DualPrompt]:
    with pq.ParquetFile(path) as rows:
        for batch in rows.iter_batches(1024, columns=["teacher_prompt_ids", "theta_prompt_ids", "id"]):
            for row in batch.to_pylist():
                yield DualPrompt(tuple(row["teacher_prompt_ids"]), tuple(row["theta_prompt_ids"]), row["id"])


def _difference(before: Totals, now: Totals) -> Totals:
    """Return the totals since `before`; a maximum remains that of the sampler's whole life."""
    return {name: value if name.startswith("max_") else value - before[name] for name, value in now.items()}
