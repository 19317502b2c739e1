"""A client of the engine's process, which keeps its models loaded from shard to shard."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable, Collection, Mapping
from typing import Any, Self

from sampling.errors import DualSamplingError, EngineDiedError, OutputError
from sampling.processes.child import Child
from sampling.processes.environment import OBJECT_STORE, PROXIES, private
from sampling.processes.errors import from_message
from sampling.processes.exits import exit_error
from sampling.served.config import key_variable
from tasks.config import PipelineConfig
from tasks.run.folder import OWN_ENGINE, RunFolder
from tasks.run.parts import Key
from tasks.run.progress import Progress
from tasks.run.shard_folder import ShardFolder
from tasks.worker.watchdog import Watchdog

logger = logging.getLogger(__name__)

ENGINE = "tasks.worker.engine_child:serve"  # the function that the process runs; tests replace it
STOP_TIMEOUT_S = 30.0  # the process has one commit to make


class EngineProcess:
    """The engine's process, started when a shard is requested and there is none: at first, and after an error."""

    def __init__(
        self,
        config: PipelineConfig,
        folder: RunFolder,
        environment: Mapping[str, str] | None = None,
        name: str = OWN_ENGINE,
    ) -> None:
        """`environment`: variables of the process alone, such as keys. `name`: of its log and its lock.

        Of this process's own secrets it has the keys of served models, and those of the run's object store. The models
        must have been fetched: it has no token of the Hub.
        """
        lock = folder.engine_lock(name)
        self._load = {"config": config, "run": folder.run_id[:12], "lock": lock, "mirror": folder.mirror}
        self._environment = environment or {}
        keys = (key_variable("theta"), key_variable("teacher")) if config.models.theta.urls else ()
        self._keep = (*PROXIES, *keys, *(OBJECT_STORE if folder.mirror is not None else ()))
        self._folder = folder
        self._log = folder.engine_log(name)
        self._log_address = folder.address(self._log)
        self._log_start = 0
        self._stall_timeout_s = config.shards.stall_timeout_s
        self._progress: Progress | None = None
        self._child: Child | None = None
        self._begun: ShardFolder | None = None  # requested, and not yet waited for

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Return the process's id, None while there is no process."""
        return None if self._child is None else self._child.process.pid

    def sample(self, shard: ShardFolder, skip: Collection[Key], on_progress: Callable[[Progress], None]) -> None:
        """Sample every completion of a shard's rows that is not in `skip`, into the shard's parts.

        Raises the engine's own DualSamplingError (EngineError for any other exception), EngineDiedError when its
        process ended, or EngineStalledError after `shards.stall_timeout_s` without progress. After an error the next
        call starts a fresh process.
        """
        try:
            if self._begun not in (None, shard):  # an earlier shard again, while the engine samples the next one
                self._kill()
            if self._begun is None:
                self._request(shard, skip)
            self._begun = None
            watchdog = Watchdog(self._stall_timeout_s)
            while True:
                kind, payload = self._receive(watchdog)
                if kind == "done":
                    return
                if kind == "error":
                    raise from_message(payload, f" (see {self._log_address})")
                if kind == "log":
                    logger.log(payload["level"], "%s", payload["text"])
                    continue
                now = self._progress = Progress(**payload)
                on_progress(now)
        except DualSamplingError:
            self._kill()
            raise
        except BaseException:  # Ctrl-C: the rows it has finished are committed
            self.close()
            raise

    def begin(self, shard: ShardFolder) -> None:
        """Request a whole shard, for which a later `sample` waits. Call it only after `sample` has returned.

        A process that has ended raises in that `sample`.
        """
        try:
            self._request(shard, ())
            self._begun = shard
        except EngineDiedError:
            self._kill()

    def is_at(self, shard: ShardFolder) -> bool:
        """Return whether `begin` has requested this shard."""
        return self._begun == shard

    def _request(self, shard: ShardFolder, skip: Collection[Key]) -> None:
        if self._child is None:
            with open(self._log, "ab", opener=private) as log:
                self._log_start = log.tell()
                self._child = Child(ENGINE, log, variables=self._environment, keep=self._keep)
            self._send("load", self._load)
        self._send("sample", {"rows": shard.rows, "parts": shard.parts, "skip": set(skip)})

    def close(self) -> None:
        """End the process after it has committed the rows it has finished."""
        if self._child is None:
            return
        try:
            self._send("stop", {})
            self._child.process.wait(STOP_TIMEOUT_S)
        except (EngineDiedError, subprocess.TimeoutExpired) as error:
            logger.warning("the engine's last rows may not be committed, and are sampled again then: %s", error)
        finally:
            self._kill()

    def _send(self, kind: str, payload: dict[str, Any]) -> None:
        assert self._child is not None
        try:
            self._child.connection.send((kind, payload))
        except OSError:
            raise self._exit_error(self._child) from None

    def _receive(self, watchdog: Watchdog) -> tuple[str, dict[str, Any]]:
        assert self._child is not None
        connection = self._child.connection
        try:
            # The process reports twice a second, from another thread than the one that may hang: only a change counts.
            # While it loads it reports nothing, and its log grows.
            watchdog.see(self._signs_of_life())
            while not connection.poll(1.0):  # end of file comes at once, unless a grandchild holds the pipe
                if self._child.process.poll() is not None and not connection.poll():
                    raise EOFError
                watchdog.see(self._signs_of_life())
            message: tuple[str, dict[str, Any]] = connection.recv()
            return message
        except (EOFError, OSError):
            raise self._exit_error(self._child) from None

    def _signs_of_life(self) -> tuple[int, ...]:
        """Return values that change while the engine works: its counts, the size of its log in bytes."""
        now = self._progress or Progress(0, 0)
        log_bytes = self._log.stat().st_size if self._log.exists() else 0
        return now.num_done, now.num_failed, now.num_tokens, log_bytes

    def _exit_error(self, child: Child) -> EngineDiedError:
        try:
            code = child.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return EngineDiedError(f"the engine's process closed its pipe but does not end; see {self._log_address}")
        return exit_error("the engine's process", code, self._log, self._log_start, self._log_address)

    def _kill(self) -> None:
        if self._child is not None:
            self._child.kill(STOP_TIMEOUT_S)
            try:
                self._folder.upload(self._log)
            except OutputError as error:  # the error that the log explains matters more
                logger.warning("the engine's log is not uploaded: %s", error)
        self._child = self._begun = None
