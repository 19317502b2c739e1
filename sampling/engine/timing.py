"""A stopwatch for the parts of a step."""

from __future__ import annotations

import time
from typing import Any

import torch

Moment = float | torch.cuda.Event


class Stopwatch:
    """Records the boundaries between the parts of a step.

    On a GPU a boundary is an event in the work queue: recording it does not wait, and Python, which runs ahead, is not
    measured. On a CPU it is the wall clock.
    """

    def __init__(self, device: torch.device, *, is_host: bool = False) -> None:
        """Start. `is_host`: the parts are host work that runs while a GPU continues, and is not counted there."""
        self._is_cuda = device.type == "cuda"
        self._is_off = self._is_cuda and is_host
        self._moments: list[tuple[str, Moment]] = []
        self.mark("start")

    def mark(self, part: str) -> None:
        """End the part that ran since the last mark."""
        if self._is_off:
            return
        moment: Moment = time.perf_counter()
        if self._is_cuda:
            moment = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            moment.record()
        self._moments.append((part, moment))

    def parts(self) -> dict[str, float]:
        """Return the seconds of each part; on a GPU only once all of them are known to be done."""
        seconds: dict[str, float] = {}
        for (_, start), (part, end) in zip(self._moments, self._moments[1:], strict=False):
            seconds[part] = seconds.get(part, 0.0) + _seconds(start, end)
        return seconds


def _seconds(start: Any, end: Any) -> float:
    return float(end - start if isinstance(start, float) else start.elapsed_time(end) / 1000)
