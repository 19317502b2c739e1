"""The wait for shards that runs of a deployment sample."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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

POLL_S, POLL_STORE_S = 1.0, 5.0  # of the work folder: one small file a run
ASK_S = 5.0  # of Prefect's server
BEGIN_S = 600.0  # from a worker's word that it begins to the first beat: a container's image may come first
FINISH_S = 30.0  # what an engine's process is given to end
REFUSALS = set(range(400, 500)) - {408, 429}  # answers of the server that another try does not change
MAX_FAILED_STARTS = 3  # runs in a row that ended before their first beat


class FanOut:
    """Has runs of `shards.deployment` sample every shard; replaces the lost ones."""

    def __init__(
        self,
        config: PipelineConfig,
        folder: RunFolder,
        runs: SamplingRuns,
        on_progress: Callable[[int, Progress], None],
        on_engines: Callable[[int], None],
    ) -> None:
        """`on_progress` is given each shard with its figures, `on_engines` how many engines are at work."""
        self._max_runs = config.shards.max_runs
        self._lost_s = config.shards.lost_timeout_s
        self._folder = folder
        self._runs = runs
        self._on_progress = on_progress
        self._on_engines = on_engines
        self._beats: dict[str, tuple[HeartbeatRecord, float]] = {}  # each run's last one, and when it was new
        self._progress: dict[int, Progress] = {}
        self._summaries: dict[int, ShardSummary] = {}
        self._failures: dict[int, EngineError] = {}
        self._open: set[int] = set()
        self._living: set[str] = set()  # runs, when Prefect was last asked
        self._seen: dict[UUID, float] = {}  # when a run that has not beaten yet was first seen to begin
        self._ended: set[UUID] = set()
        self._failed: list[str] = []  # what runs said that failed, or that somebody cancelled
        self._num_failed_starts = 0
        self._looked = self._asked = self._warned = 0.0

    def sample(self, num_shards: int) -> list[ShardSummary]:
        """The summaries of all shards, in their order.

        Raises EngineError when a shard was given up (each is named), or when no run is left that could sample; what
        is sampled is kept. Whatever it raises, the runs are cancelled.
        """
        try:
            with output_errors(self._folder.work):
                self._look_at_all(num_shards)
                while self._open:
                    self._look_at_beats()
                    if time.monotonic() - self._asked >= ASK_S:
                        self._look_at_ended()
                        with self._without_server():
                            self._ask_prefect()
                        self._asked = time.monotonic()
                    if self._open:
                        time.sleep(POLL_S if self._folder.mirror is None else POLL_STORE_S)
        except BaseException:
            with suppress(HTTPError, ConfigurationError), self._without_server():
                self._runs.cancel()
            raise
        with self._without_server():
            self._finish()
        if self._failures:
            lines = "; ".join(str(error) for _, error in sorted(self._failures.items()))
            first = next(iter(self._failures.values()))
            raise type(first)(f"{lines}; every other shard is kept, and the same command tries these again")
        return [self._summaries[index] for index in range(num_shards)]

    def _look_at_all(self, num_shards: int) -> None:
        """What earlier runs have completed; what they gave up, or were lost with, gets another chance."""
        for index in range(num_shards):
            shard = self._folder.shard(index)
            shard.delete(shard.failure)
            self._open.add(index)
        self._look_at_ended()

    def _look_at_ended(self) -> None:
        """Not by the beats: a run may be killed between a shard's last file and its next word."""
        for index in self._open & self._folder.ended_shards():
            self._take(index)

    def _look_at_beats(self) -> None:
        now = self._looked = time.monotonic()
        for run, beat in read_heartbeats(self._folder).items():
            before, _ = self._beats.get(run, (None, 0.0))
            if before is not None and before.number == beat.number:
                continue
            self._beats[run] = beat, now
            if beat.shard in self._open and beat.progress is not None:
                self._show(beat.shard, beat.progress)
        self._on_engines(len(self._at_work()))

    def _take(self, index: int) -> None:
        """Note the outcome of a shard that has ended."""
        shard = self._folder.shard(index)
        shard.download_outcome()
        if (summary := read_summary(shard)) is not None:
            self._summaries[index] = summary
            num_failed = sum(summary.failed.values())
            before = self._progress.get(index, Progress(0, 0))
            self._show(index, replace(before, num_done=summary.num_rows + num_failed, num_failed=num_failed))
        elif (error := read_failure(shard)) is not None:
            self._failures[index] = error
        else:  # the table is damaged, or of another run than the summary: a run makes both again from the parts
            shard.delete(shard.table)
            shard.delete(shard.summary)
            return
        self._open.remove(index)

    def _show(self, index: int, now: Progress) -> None:
        self._progress[index] = now
        self._on_progress(index, now)

    def _at_work(self) -> set[int]:
        """Shards that a living run samples; beats of earlier runs lie there, too."""
        beats = (self._beats[run][0] for run in self._living & self._beats.keys())
        return {beat.shard for beat in beats if beat.shard is not None}

    def _ask_prefect(self) -> None:
        """Replace what is lost."""
        living = [run for run in self._runs.read() if self._is_alive(run)]
        self._living = {str(run.id) for run in living}
        limit = self._limit() - len(self._failed)
        if not living and limit <= 0:
            said = "; ".join(self._failed)
            raise EngineError(f"no run of the deployment is left to sample {len(self._open)} shards: {said}")
        num_waiting = len(self._living - self._beats.keys())
        num_free = len(self._open - self._at_work()) - num_waiting
        for _ in range(min(limit - len(living), num_free)):
            self._runs.start()

    def _limit(self) -> int:
        if self._max_runs is not None:
            return self._max_runs
        num_workers = self._runs.num_workers()
        if num_workers == 0:
            self._warn(
                f"nobody is there to sample: `prefect worker start --pool {self._runs.pool}`, or shards.max_runs"
            )
        return max(1, num_workers)

    def _is_alive(self, run: FlowRun) -> bool:
        """Not by Prefect's word alone: a run whose worker is dead stays Running there."""
        state, beat = run.state, self._beats.get(str(run.id))
        assert state is not None
        if state.is_final():
            self._note_end(run, state)
            return False
        if state.is_scheduled():
            return True
        # By the time of the last look: Prefect's server may have taken a minute to answer since.
        silent_s = self._looked - (beat[1] if beat else self._seen.setdefault(run.id, self._looked))
        if silent_s < (self._lost_s if beat else BEGIN_S):
            return True
        self._runs.lose(run, f"no sign of it for {silent_s:.0f} s")
        return False

    def _note_end(self, run: FlowRun, state: State) -> None:
        if run.id in self._ended:
            return
        self._ended.add(run.id)
        said = f"{run.name}: {state.name}: {state.message}"
        if state.is_failed() or state.is_cancelled():
            self._failed.append(said)
        self._num_failed_starts = 0 if str(run.id) in self._beats else self._num_failed_starts + 1
        if self._num_failed_starts == MAX_FAILED_STARTS:
            raise EngineDiedError(
                f"{MAX_FAILED_STARTS} runs in a row ended before they began ({said}); see their worker's log"
            )

    def _finish(self) -> None:
        """Runs that have nothing left to do end by themselves; one that does not is dead, or about to see it."""
        deadline = time.monotonic() + FINISH_S
        while left := self._runs.withdraw():
            if time.monotonic() > deadline:
                for run in left:
                    self._runs.lose(run, "no shard is left, and no end of it was seen")
                return
            time.sleep(POLL_S)

    @contextmanager
    def _without_server(self) -> Iterator[None]:
        """A server that is gone, or overloaded, costs warnings: who samples, samples on.

        Raises ConfigurationError when it refuses: that would not change.
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
        """Once a minute."""
        if not self._warned or time.monotonic() - self._warned >= 60.0:
            self._warned = time.monotonic()
            logger.warning("%s", text)
