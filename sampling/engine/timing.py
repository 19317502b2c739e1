"""The time that the parts of a step take, on the clock of what runs them."""

from __future__ import annotations

import time

import torch

Moment = float | torch.cuda.Event


class Stopwatch:
    """Takes the moments between which a step's parts lie.

    On a GPU a moment is an event in the queue of work: nobody waits for it, and Python, which runs ahead, is not
    measured. On a CPU it is the wall clock.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._moments: list[tuple[str, Moment]] = []

    def mark(self, part: str) -> None:
        """The part that ran since the last mark ends here."""
        self._moments.append((part, self._now()))

    def mark_host(self, part: str) -> None:
        """Likewise, of work that the host does while a GPU goes on: no part of the step there."""
        if not self._is_cuda:
            self.mark(part)

    def parts(self) -> dict[str, float]:
        """Seconds of each part; on a GPU once all of it is known to be done."""
        found: dict[str, float] = {}
        for (_, start), (part, end) in zip(self._moments, self._moments[1:], strict=False):
            found[part] = found.get(part, 0.0) + _seconds(start, end)
        return found

    def _now(self) -> Moment:
        if not self._is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def _seconds(start: Moment, end: Moment) -> float:
    if isinstance(start, float):
        assert isinstance(end, float)
        return end - start
    assert not isinstance(end, float)
    return float(start.elapsed_time(end)) / 1000
