"""How far a run is: in the terminal, in its log, on Prefect's pages."""

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
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from flows.orchestration.artifacts import ProgressArtifacts, key_of
from tasks.run.folder import RunFolder
from tasks.run.progress import Progress

LINE_EVERY_S = 10.0  # where nobody watches: a line in a log


@dataclass(slots=True)
class Tally:
    """Completions done of so many, how fast, how many of them quarantined."""

    num_completions: int
    num_failed: int = 0
    num_done: int = 0
    num_engines: int = 1  # that draw at the same time
    # Of this run's attempts alone; what an earlier run did says nothing of the speed of this one.
    num_new: int = 0
    num_tokens: int = 0
    sampling_s: float = 0.0

    def add(self, before: Progress | None, now: Progress) -> None:
        """Take the figures of a shard, in the place of what was taken of it before."""
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
    """Completions done, quarantined, tokens a second, time left; over all shards of a run."""

    def __init__(self, num_completions: int, num_quarantined: int, pages: ShardPages | None = None) -> None:
        self._all = Tally(num_completions, num_quarantined)
        self._shards: dict[int, Progress] = {}
        self._pages = pages
        self._printed: float | None = None
        self._line = ""
        self._bar: RichProgress | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            columns = (TextColumn("sampling"), BarColumn(), MofNCompleteColumn(), _Status(self))
            self._bar = RichProgress(*columns, console=Console(stderr=True))
            self._bar.add_task("sampling", total=self._all.num_completions)
            self._bar.start()
        if self._pages is not None:
            self._pages.show(self._all)
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
        """Take the figures of a shard so far."""
        before = self._shards.get(shard)
        self._shards[shard] = now
        self._all.add(before, now)
        is_to_sample = True
        if self._pages is not None:
            is_to_sample = self._pages.show_shard(shard, before, now)
            self._pages.show(self._all)
        if self._bar is not None:
            with suppress(OSError):
                self._bar.update(self._bar.task_ids[0], completed=self.num_done)
        elif self._is_line_due(is_to_sample):
            self._print()

    def _is_line_due(self, is_to_sample: bool) -> bool:
        """The first line tells all that an earlier run has done: it waits for a shard that is not."""
        return is_to_sample if self._printed is None else time.monotonic() - self._printed >= LINE_EVERY_S

    def show_engines(self, num_engines: int) -> None:
        """Take how many engines draw at the same time."""
        self._all.num_engines = max(1, num_engines)

    @property
    def num_done(self) -> int:
        """Completions that need no more sampling."""
        return self._all.num_done

    def status(self) -> str:
        """Speed, time left, quarantined: `830 tok/s, 0:01:20 left, 2 quarantined`."""
        return self._all.status()

    def _print(self) -> None:
        self._printed = time.monotonic()
        if self._line == (line := f"sampled {self._all}"):
            return
        self._line = line
        with suppress(OSError):  # a terminal that is gone ends no run
            print(line, file=sys.stderr, flush=True)


class _Status(ProgressColumn):
    """The figures beside the bar."""

    def __init__(self, progress: RunProgress) -> None:
        super().__init__()
        self._progress = progress

    def render(self, task: Task) -> Text:
        return Text(self._progress.status())


class ShardPages:
    """Prefect's progress artifacts of the current flow run: one of the whole, one of each shard that samples."""

    def __init__(self, folder: RunFolder, num_samples: int) -> None:
        self._folder = folder
        self._num_samples = num_samples
        self._title = f"{folder.name} {folder.version}"
        self._shards: dict[int, Tally] = {}  # those that sample
        self._pages = ProgressArtifacts()

    def show(self, whole: Tally) -> None:
        """Show the whole run."""
        self._pages.put(key_of(f"{self._title} progress"), whole.percent, f"{self._title}: {whole}")

    def show_shard(self, index: int, before: Progress | None, now: Progress) -> bool:
        """Show a shard, and log its first word and its last; False for one that is found done, which needs neither."""
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
        self._pages.put(
            key_of(f"{self._title} shard {index:05d}"),
            shard.percent,
            f"shard {index:05d}: {shard}",
            task_run_id=task.task_run.id if task else None,
        )
        return True

    def close(self) -> None:
        """Send what is not sent."""
        self._pages.close()
