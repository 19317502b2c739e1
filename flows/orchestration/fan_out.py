"""The coordinator of a run whose shards are sampled by other flow runs, those of `shards.deployment`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from uuid import UUID

from httpx import HTTPError, HTTPStatusError
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound

from flows.orchestration.sampling_runs import SamplingRuns
from sampling.errors import ConfigurationError, EngineDiedError, EngineError
from tasks.config import PipelineConfig
from tasks.run.folder import RunFolder
from tasks.run.heartbeat import HeartbeatRecord, read_heartbeats
from tasks.run.progress import Progress
from tasks.store.durable import output_errors
from tasks.worker.shard import ShardSummary, read_failure, read_summary

logger = logging.getLogger(__name__)

POLL_S, POLL_STORE_S = 1.0, 5.0  # between two readings of the work folder: one small file a run
ASK_S = 5.0  # between two requests to Prefect's server
BEGIN_S = 600.0  # from a run's start to its first heartbeat: a container's image may have to be pulled
FINISH_S = 30.0  # for an engine's process to end
WARN_EVERY_S = 60.0
REFUSALS = set(range(400, 500)) - {408, 429}  # status codes that another request does not change
MAX_FAILED_STARTS = 3  # runs in a row that ended before their first heartbeat


class FanOut:
    """Has runs of `shards.deployment` sample every shard; replaces runs that are lost."""

    def __init__(
        self,
        config: PipelineConfig,
        folder: RunFolder,
        runs: SamplingRuns,
        on_progress: Callable[[int, Progress], None],
        on_engines: Callable[[int], None],
    ) -> None:
        """`on_progress` receives a shard with its progress, `on_engines` the number of engines at work."""
        self._max_runs = config.shards.max_runs
        self._lost_s = config.shards.lost_timeout_s
        self._folder = folder
        self._runs = runs
        self._on_progress = on_progress
        self._on_engines = on_engines
        self._heartbeats: dict[str, tuple[HeartbeatRecord, float]] = {}  # each run's last one, when it was first read
        self._progress: dict[int, Progress] = {}
        self._summaries: dict[int, ShardSummary] = {}
        self._failures: dict[int, EngineError] = {}
        self._open: set[int] = set()
        self._living: set[str] = set()  # run ids, as of the last request to Prefect
        self._begun: dict[UUID, float] = {}  # when a run without a heartbeat was first seen to have begun
        self._ended: set[UUID] = set()
        self._failed_runs: list[str] = []  # messages of runs that failed or were cancelled, each until a shard is done
        self._num_failed_starts = 0
        self._read_at = self._asked_at = 0.0
        self._warned_at: float | None = None

    def sample(self, num_shards: int) -> list[ShardSummary]:
        """Return the summaries of all shards, in their order.

        Raises EngineError when a shard was given up (each is named), or when no run is left that could sample; what
        is sampled is kept. On any exception the runs are cancelled.
        """
        try:
            with output_errors(self._folder.work):
                self._open_all(num_shards)
                while self._open:
                    self._read_heartbeats()
                    if time.monotonic() - self._asked_at >= ASK_S:
                        self._take_ended()
                        with self._tolerate_outage():
                            self._replace_lost()
                        self._asked_at = time.monotonic()
                    if self._open:
                        time.sleep(POLL_S if self._folder.mirror is None else POLL_STORE_S)
        except BaseException:
            try:
                with self._tolerate_outage():
                    self._runs.cancel()
            except (HTTPError, ConfigurationError) as error:  # the first error is the one that counts
                logger.warning("the runs of %s are not cancelled: %s", self._runs.deployment, error)
            raise
        with self._tolerate_outage():
            self._finish()
        if self._failures:
            lines = "; ".join(str(error) for _, error in sorted(self._failures.items()))
            first = next(iter(self._failures.values()))
            raise type(first)(f"{lines}; every other shard is kept, and the same command tries these again")
        return [self._summaries[index] for index in range(num_shards)]

    def _open_all(self, num_shards: int) -> None:
        """Take the shards that earlier runs completed; open the others, those that were given up included."""
        for index in range(num_shards):
            shard = self._folder.shard(index)
            shard.delete(shard.failure)
            self._open.add(index)
        self._take_ended()

    def _take_ended(self) -> None:
        """Find ended shards by their files: a run may be killed between a shard's last file and its next heartbeat."""
        for index in self._open & self._folder.ended_shards():
            self._take(index)

    def _read_heartbeats(self) -> None:
        now = self._read_at = time.monotonic()
        for run, record in read_heartbeats(self._folder).items():
            if run in self._heartbeats and self._heartbeats[run][0].number == record.number:
                continue
            self._heartbeats[run] = record, now
            if record.shard in self._open and record.progress is not None:
                self._show(record.shard, record.progress)
        self._on_engines(len(self._shards_at_work()))

    def _take(self, index: int) -> None:
        """Note the outcome of a shard that has ended."""
        shard = self._folder.shard(index)
        shard.download()
        if (summary := read_summary(shard)) is not None:
            self._summaries[index] = summary
            del self._failed_runs[:1]  # runs do sample: a failed one may be replaced
            num_failed = sum(summary.failed.values())
            before = self._progress.get(index, Progress(0, 0))
            self._show(index, replace(before, num_done=summary.num_rows + num_failed, num_failed=num_failed))
        elif (error := read_failure(shard)) is not None:
            self._failures[index] = error
        else:  # a part is damaged: a run samples its rows again
            shard.delete(shard.summary)
            return
        self._open.remove(index)

    def _show(self, index: int, now: Progress) -> None:
        self._progress[index] = now
        self._on_progress(index, now)

    def _shards_at_work(self) -> set[int]:
        """Return the shards that living runs sample; the folder also holds heartbeats of earlier runs."""
        records = (self._heartbeats[run][0] for run in self._living & self._heartbeats.keys())
        return {record.shard for record in records if record.shard is not None}

    def _replace_lost(self) -> None:
        """Read the runs' states from Prefect; start as many as are missing."""
        living = [run for run in self._runs.read() if self._is_alive(run)]
        self._living = {str(run.id) for run in living}
        limit = self._max_living() - len(self._failed_runs)
        if not living and limit <= 0:
            messages = "; ".join(self._failed_runs)
            raise EngineError(f"no run of the deployment is left to sample {len(self._open)} shards: {messages}")
        num_waiting = len(self._living - self._heartbeats.keys())
        num_free = len(self._open - self._shards_at_work()) - num_waiting
        for _ in range(min(limit - len(living), num_free)):
            self._runs.start()

    def _max_living(self) -> int:
        if self._max_runs is not None:
            return self._max_runs
        num_workers = self._runs.num_workers()
        if num_workers == 0:
            self._warn(
                f"nobody is there to sample: `prefect worker start --pool {self._runs.pool}`, or shards.max_runs"
            )
        return max(1, num_workers)

    def _is_alive(self, run: FlowRun) -> bool:
        """Judge by the heartbeats, too: a run whose worker is dead stays Running in Prefect."""
        state, heartbeat = run.state, self._heartbeats.get(str(run.id))
        assert state is not None
        if state.is_final():
            self._note_end(run, state)
            return False
        if state.is_scheduled():
            return True
        # Up to the last reading of the folder: Prefect's server may have taken a minute to answer since.
        silent_s = self._read_at - (heartbeat[1] if heartbeat else self._begun.setdefault(run.id, self._read_at))
        if silent_s < (self._lost_s if heartbeat else BEGIN_S):
            return True
        self._runs.lose(run, f"no sign of it for {silent_s:.0f} s")
        return False

    def _note_end(self, run: FlowRun, state: State) -> None:
        if run.id in self._ended:
            return
        self._ended.add(run.id)
        message = f"{run.name}: {state.name}: {state.message}"
        if state.is_failed() or state.is_cancelled():
            self._failed_runs.append(message)
        self._num_failed_starts = 0 if str(run.id) in self._heartbeats else self._num_failed_starts + 1
        if self._num_failed_starts == MAX_FAILED_STARTS:
            raise EngineDiedError(
                f"{MAX_FAILED_STARTS} runs in a row ended before they began ({message}); see their worker's log"
            )

    def _finish(self) -> None:
        """Wait for the runs, which end once no shard is left; set those that do not within FINISH_S to Crashed."""
        deadline = time.monotonic() + FINISH_S
        while left := self._runs.withdraw():
            if time.monotonic() > deadline:
                for run in left:
                    self._runs.lose(run, "no shard is left, and no end of it was seen")
                return
            time.sleep(POLL_S)

    @contextmanager
    def _tolerate_outage(self) -> Iterator[None]:
        """Warn when Prefect's server does not answer or is overloaded; the runs go on sampling without it.

        Raises ConfigurationError when it refuses a request, which another try would not change.
        """
        try:
            yield
        except ObjectNotFound as error:
            raise ConfigurationError(
                f"{self._runs.deployment} is gone from Prefect's server: deploy it again"
            ) from error
        except HTTPError as error:
            if isinstance(error, HTTPStatusError) and error.response.status_code in REFUSALS:
                raise ConfigurationError(
                    f"Prefect's server refuses {self._runs.deployment}: {' '.join(str(error).split())[:300]}; deploy it"
                    " again from this prefect.yaml"
                ) from error
            self._warn(f"Prefect's server does not answer ({type(error).__name__}: {error}); what is begun goes on")

    def _warn(self, text: str) -> None:
        """Log a warning, once in WARN_EVERY_S."""
        if self._warned_at is None or time.monotonic() - self._warned_at >= WARN_EVERY_S:
            self._warned_at = time.monotonic()
            logger.warning("%s", text)
