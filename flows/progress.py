"""How far a run is, in the terminal or in its log."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from tasks.engine_process import Progress

LINE_EVERY_S = 10.0  # where nobody watches: a line in a log


class RunProgress:
    """Completions done, quarantined, tokens a second, time left; over all shards of a run."""

    def __init__(self, num_completions: int, num_quarantined: int) -> None:
        self._num_completions = num_completions
        self._num_planned_out = num_quarantined
        self._shards: dict[int, Progress] = {}
        # Of this run's attempts alone; what an earlier run did says nothing of the speed of this one.
        self._num_new, self._num_tokens, self._sampling_s = 0, 0, 0.0
        self._printed: float | None = None
        self._bar: RichProgress | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            columns = (TextColumn("sampling"), BarColumn(), MofNCompleteColumn(), _Status(self))
            self._bar = RichProgress(*columns, console=Console(stderr=True))
            self._bar.add_task("sampling", total=self._num_completions)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._shards:
            self._print()

    def __call__(self, shard: int, now: Progress) -> None:
        """Take the figures of a shard so far."""
        before = self._shards.get(shard)
        self._shards[shard] = now
        if before is not None and now.sampling_s > before.sampling_s:  # else: what an attempt found done
            self._num_new += now.num_done - before.num_done
            self._num_tokens += now.num_tokens - before.num_tokens
            self._sampling_s += now.sampling_s - before.sampling_s
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.num_done)
        elif self._printed is None or time.monotonic() - self._printed >= LINE_EVERY_S:
            self._print()

    @property
    def num_done(self) -> int:
        """Completions that need no more sampling."""
        return sum(shard.num_done for shard in self._shards.values())

    def status(self) -> str:
        """Speed, time left, quarantined: `830 tok/s, 0:01:20 left, 2 quarantined`."""
        num_left = self._num_completions - self.num_done
        parts = []
        if self._sampling_s:
            parts.append(f"{self._num_tokens / self._sampling_s:.0f} tok/s")
        elif num_left:
            parts.append("loading the engine")
        if self._num_new and num_left:
            parts.append(f"{timedelta(seconds=round(num_left * self._sampling_s / self._num_new))} left")
        num_failed = self._num_planned_out + sum(shard.num_failed for shard in self._shards.values())
        if num_failed:
            parts.append(f"{num_failed} quarantined")
        return ", ".join(parts)

    def _print(self) -> None:
        self._printed = time.monotonic()
        status = f"sampled {self.num_done} of {self._num_completions}"
        print(", ".join(filter(None, (status, self.status()))), file=sys.stderr, flush=True)


class _Status(ProgressColumn):
    """The figures beside the bar."""

    def __init__(self, progress: RunProgress) -> None:
        super().__init__()
        self._progress = progress

    def render(self, task: Task) -> Text:
        return Text(self._progress.status())
