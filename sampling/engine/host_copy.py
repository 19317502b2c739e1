"""Asynchronous copies between host and device memory.

On a CPU both are the same memory, and tensors are passed through.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def on_device(values: Sequence[int], device: torch.device) -> Tensor:
    """Return integers as a tensor [N] int64 on the device, copied from pinned memory behind the queued work."""
    pinned = device.type == "cuda"
    return torch.tensor(values, dtype=torch.int64, pin_memory=pinned).to(device, non_blocking=True)


class HostCopy:
    """Tensors being copied to pinned memory, on a stream of their own."""

    def __init__(self, *tensors: Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        self._tensors = tensors
        if not tensors[0].is_cuda:
            return
        stream = _copy_stream(tensors[0].device)
        stream.wait_stream(torch.cuda.current_stream(tensors[0].device))
        with torch.cuda.stream(stream):
            self._tensors = tuple(tensor.to("cpu", non_blocking=True) for tensor in tensors)
            # blocking: the wait sleeps; a spinning wait keeps the driver's lock
            self._arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._arrived.record()
        for tensor in tensors:
            tensor.record_stream(stream)  # its memory is not reused before the copy is done

    def wait(self) -> tuple[Tensor, ...]:
        """Return the tensors on the host once the copy is done."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._tensors


@lru_cache(maxsize=8)
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
