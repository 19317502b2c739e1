"""The way between the host's memory and the device's, on which nobody waits.

On a CPU both are one memory; the tensors are then handed through.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def on_device(values: Sequence[int], device: torch.device) -> Tensor:
    """Whole numbers [N] int64 on the device, sent from pinned memory behind the work that is queued there."""
    pinned = device.type == "cuda"
    return torch.tensor(values, dtype=torch.int64, pin_memory=pinned).to(device, non_blocking=True)


class HostCopy:
    """Tensors on their way to pinned memory, on a stream beside the one that computes."""

    def __init__(self, *tensors: Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        self._tensors = tensors
        if not tensors[0].is_cuda:
            return
        beside = _copy_stream(tensors[0].device)
        beside.wait_stream(torch.cuda.current_stream(tensors[0].device))
        with torch.cuda.stream(beside):
            self._tensors = tuple(tensor.to("cpu", non_blocking=True) for tensor in tensors)
            # blocking: the wait sleeps; a spinning one keeps the driver's lock
            self._arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._arrived.record()
        for tensor in tensors:
            tensor.record_stream(beside)  # its memory is not given to others before the copy is made

    def wait(self) -> tuple[Tensor, ...]:
        """The tensors on the host, once they are there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._tensors


@lru_cache(maxsize=8)
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
