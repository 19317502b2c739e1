"""The engine in a child process that stays loaded from shard to shard."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from sampling.errors import DualSamplingError, EngineDiedError, OutputError
from sampling.processes.children import environment, from_message
from sampling.processes.exits import death
from tasks.config import PipelineConfig
from tasks.run.folder import OWN_ENGINE, RunFolder
from tasks.run.parts import Key
from tasks.run.progress import Progress
from tasks.run.shard_folder import ShardFolder
from tasks.worker.watchdog import Watchdog

logger = logging.getLogger(__name__)

STOP_TIMEOUT_S = 30.0  # the child has one commit to make


class EngineProcess:
    """Starts the child when the first shard needs it, and again after it died."""

    def __init__(
        self,
        config: PipelineConfig,
        folder: RunFolder,
        environment: Mapping[str, str] | None = None,
        name: str = OWN_ENGINE,
    ) -> None:
        """`environment` holds variables that the child alone gets, such as keys; `name` is its log's and its lock's."""
        self._settings = {
            "teacher": config.models.teacher.model_dump(mode="json"),
            "theta": config.models.theta.model_dump(mode="json"),
            "mixture": config.mixture.model_dump(mode="json"),
            "engine": config.engine.model_dump(mode="json"),
            "http": config.http.model_dump(mode="json"),
            "sampling": config.sampling.model_dump(mode="json"),
            "metrics": config.metrics.model_dump(mode="json"),
            "run": folder.run_id[:12],
            "lock": str(folder.engine_lock(name)),
            "mirror": folder.mirror,
        }
        self._environment = environment or {}
        self._folder = folder
        self._log = folder.engine_log(name)
        self._shown_log = folder.address(self._log)
        self._log_start = 0
        self._stall_timeout_s = config.shards.stall_timeout_s
        self._progress: Progress | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._begun: ShardFolder | None = None  # asked for, and not yet waited for

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Of the child, None while there is none."""
        return None if self._process is None else self._process.pid

    def sample(self, shard: ShardFolder, skip: Collection[Key], on_progress: Callable[[Progress], None]) -> None:
        """Sample every completion of a shard's rows that is not in `skip`, into the shard's parts.

        Raises what the engine raised, under its own class (another exception than ours: EngineError), EngineDiedError
        when its process ended, or EngineStalledError when it did nothing for `shards.stall_timeout_s`. After an error
        the next call starts a fresh engine.
        """
        try:
            if self._begun not in (None, shard):  # an earlier shard again, while the engine is at the next
                self._kill()
            if self._begun is None:
                self._ask(shard, skip)
            self._begun = None
            watchdog = Watchdog(self._stall_timeout_s)
            while True:
                kind, payload = self._receive(watchdog)
                if kind == "done":
                    return
                if kind == "error":
                    raise from_message(payload, f" (see {self._shown_log})")
                if kind == "log":
                    logger.log(payload["level"], "%s", payload["text"])
                    continue
                now = self._progress = Progress(**payload)
                on_progress(now)
        except DualSamplingError:
            self._kill()
            raise
        except BaseException:  # Ctrl-C: what is finished is committed
            self.close()
            raise

    def begin(self, shard: ShardFolder) -> None:
        """Ask for a whole shard without waiting for it; `sample` does, when the shard before is completed.

        Call it after `sample` alone. An engine that is dead shows when it is waited for.
        """
        try:
            self._ask(shard, ())
            self._begun = shard
        except EngineDiedError:
            self._kill()

    def is_at(self, shard: ShardFolder) -> bool:
        """Whether it was asked to begin this shard."""
        return self._begun == shard

    def _ask(self, shard: ShardFolder, skip: Collection[Key]) -> None:
        if self._process is None:
            self._start()
        self._send("sample", {"rows": str(shard.rows), "parts": str(shard.parts), "skip": set(skip)})

    def close(self) -> None:
        """End the child in order: the rows it has finished are committed first."""
        if self._process is None:
            return
        try:
            self._send("stop", {})
            self._process.wait(STOP_TIMEOUT_S)
        except (EngineDiedError, subprocess.TimeoutExpired):
            pass
        finally:
            self._kill()

    def _start(self) -> None:
        ours, theirs = Pipe()
        # Not multiprocessing: its spawn imports the caller's main module again, which may be a script without a
        # guard, or Prefect.
        command = f"from tasks.worker.engine_child import main; main({theirs.fileno()})"
        with open(self._log, "ab") as log, theirs:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                env=environment(**self._environment),
            )
        self._connection = ours
        self._send("load", self._settings)

    def _send(self, kind: str, payload: dict[str, Any]) -> None:
        assert self._connection is not None
        try:
            self._connection.send((kind, payload))
        except OSError:
            raise self._death() from None

    def _receive(self, watchdog: Watchdog) -> tuple[str, dict[str, Any]]:
        assert self._connection is not None
        assert self._process is not None
        try:
            # The child reports twice a second from another thread than the one that may hang: what it reports counts.
            # While it loads it reports nothing, and its log grows.
            watchdog.see(self._shown())
            while not self._connection.poll(1.0):  # the pipe's end comes at once, unless a grandchild holds it
                if self._process.poll() is not None and not self._connection.poll():
                    raise EOFError
                watchdog.see(self._shown())
            message: tuple[str, dict[str, Any]] = self._connection.recv()
            return message
        except (EOFError, OSError):
            raise self._death() from None

    def _shown(self) -> tuple[int, ...]:
        """What changes as long as the engine does something."""
        now = self._progress or Progress(0, 0)
        log_bytes = self._log.stat().st_size if self._log.exists() else 0
        return now.num_done, now.num_failed, now.num_tokens, log_bytes

    def _death(self) -> EngineDiedError:
        assert self._process is not None
        try:
            code = self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return EngineDiedError(f"the engine's process closed its pipe but does not end; see {self._shown_log}")
        return death("the engine's process", code, self._log, self._log_start, self._shown_log)

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):  # stuck in a driver, which nothing ends
                self._process.wait(STOP_TIMEOUT_S)
            with suppress(OutputError):  # the error that it is about counts
                self._folder.upload(self._log)
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = self._begun = None
