"""The display of a run's progress: in the terminal, in its log, on Prefect's pages."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Self

import pyarrow.parquet as pq
from prefect.context import TaskRunContext
from prefect.logging import get_run_logger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as RichProgress

from flows.orchestration.artifacts import ProgressArtifacts, key_of
from tasks.run.folder import RunFolder
from tasks.run.progress import Progress

LINE_EVERY_S = 10.0  # without a terminal: a line in a log


@dataclass(slots=True)
class Tally:
    """Completions counted over shards: how many are done, quarantined, sampled in a second."""

    num_completions: int
    num_failed: int = 0
    num_done: int = 0
    num_engines: int = 1  # that draw at the same time
    # Of this run's attempts alone, because an earlier run's speed is not this one's.
    num_new: int = 0
    num_tokens: int = 0
    sampling_s: float = 0.0

    def add(self, before: Progress | None, now: Progress) -> None:
        """Add a shard's progress since `before`, which was added already."""
        self.num_done += now.num_done - (before.num_done if before else 0)
        self.num_failed += now.num_failed - (before.num_failed if before else 0)
        if before is not None and now.sampling_s > before.sampling_s:  # else: what an attempt found done
            self.num_new += now.num_done - before.num_done
            self.num_tokens += now.num_tokens - before.num_tokens
            self.sampling_s += now.sampling_s - before.sampling_s

    @property
    def num_left(self) -> int:
        """Completions that need sampling."""
        return self.num_completions - self.num_done

    @property
    def percent(self) -> float:
        """0 to 100."""
        return 100.0 * self.num_done / self.num_completions

    def counted(self) -> str:
        """`62 of 100`."""
        return f"{self.num_done} of {self.num_completions}"

    def status(self) -> str:
        """Speed, time left, quarantined: `830 tok/s, 0:01:20 left, 2 quarantined`."""
        parts = []
        if self.sampling_s:
            parts.append(f"{self.num_tokens / self.sampling_s * self.num_engines:.0f} tok/s")
        elif self.num_left:
            parts.append("loading the engine")
        if self.num_new and self.num_left:
            left_s = self.num_left * self.sampling_s / self.num_new / self.num_engines
            parts.append(f"{timedelta(seconds=round(left_s))} left")
        if self.num_failed:
            parts.append(f"{self.num_failed} quarantined")
        return ", ".join(parts)

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.counted(), self.status())))


class RunProgress:
    """The progress over all shards of a run: a bar in a terminal, else a line every LINE_EVERY_S."""

    def __init__(self, num_completions: int, num_quarantined: int, pages: ShardPages | None = None) -> None:
        self.tally = Tally(num_completions, num_quarantined)
        self._shards: dict[int, Progress] = {}
        self._pages = pages
        self._printed_at: float | None = None
        self._line = ""
        self._bar: RichProgress | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            columns = (TextColumn("sampling"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[status]}"))
            self._bar = RichProgress(*columns, console=Console(stderr=True))
            self._bar.add_task("sampling", total=self.tally.num_completions, status=self.tally.status())
            self._bar.start()
        if self._pages is not None:
            self._pages.show(self.tally)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            with suppress(OSError):
                self._bar.stop()
        elif self._shards:
            self._print()
        if self._pages is not None:
            self._pages.close()

    def __call__(self, shard: int, now: Progress) -> None:
        """Add and show a shard's progress so far."""
        before = self._shards.get(shard)
        self._shards[shard] = now
        self.tally.add(before, now)
        needs_sampling = True
        if self._pages is not None:
            needs_sampling = self._pages.show_shard(shard, before, now)
            self._pages.show(self.tally)
        if self._bar is not None:
            with suppress(OSError):
                task = self._bar.task_ids[0]
                self._bar.update(task, completed=self.tally.num_done, status=self.tally.status())
        elif self._is_line_due(needs_sampling):
            self._print()

    def _is_line_due(self, needs_sampling: bool) -> bool:
        """The first line waits for a shard that needs sampling, and so counts all that earlier runs have done."""
        return needs_sampling if self._printed_at is None else time.monotonic() - self._printed_at >= LINE_EVERY_S

    def show_engines(self, num_engines: int) -> None:
        """Set how many engines draw at the same time."""
        self.tally.num_engines = max(1, num_engines)

    def _print(self) -> None:
        self._printed_at = time.monotonic()
        if self._line == (line := f"sampled {self.tally}"):
            return
        self._line = line
        with suppress(OSError):  # a terminal that is gone does not end a run
            print(line, file=sys.stderr, flush=True)


class ShardPages:
    """The progress artifacts of the current flow run: one of the whole, one of each shard that samples."""

    def __init__(self, folder: RunFolder, num_samples: int) -> None:
        self._folder = folder
        self._num_samples = num_samples
        self._title = f"{folder.name} {folder.version}"
        self._shards: dict[int, Tally] = {}  # those that sample
        self._artifacts = ProgressArtifacts()

    def show(self, whole: Tally) -> None:
        """Show the whole run."""
        self._artifacts.put(key_of(f"{self._title} progress"), whole.percent, f"{self._title}: {whole}")

    def show_shard(self, index: int, before: Progress | None, now: Progress) -> bool:
        """Show a shard, and log its beginning and end. Return False, showing nothing, for one that was done before."""
        log = get_run_logger(run_id=self._folder.run_id[:12], shard=index)
        shard = self._shards.get(index)
        if shard is None:
            num_rows = pq.read_metadata(self._folder.shard(index).rows).num_rows
            shard = Tally(num_rows * self._num_samples)
            shard.add(None, now)
            if shard.num_left <= 0:
                return False
            self._shards[index] = shard
            log.info("shard %05d begins: %s", index, shard.counted())
        else:
            shard.add(before, now)
            if shard.num_left <= 0:
                del self._shards[index]
                log.info("shard %05d is sampled: %s", index, shard)
        task = TaskRunContext.get()
        self._artifacts.put(
            key_of(f"{self._title} shard {index:05d}"),
            shard.percent,
            f"shard {index:05d}: {shard}",
            task_run_id=task.task_run.id if task else None,
        )
        return True

    def close(self) -> None:
        """Send the last updates."""
        self._artifacts.close()
