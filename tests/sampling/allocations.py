"""Measurement of the memory that torch allocates."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class _Counter(TorchDispatchMode):
    """Sums the sizes of living storages that operations returned."""

    def __init__(self) -> None:
        super().__init__()
        self._alive: dict[int, int] = {}
        self.peak_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._alive:
                    self._alive[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self._alive.pop, storage._cdata, None)
        self.peak_bytes = max(self.peak_bytes, sum(self._alive.values()))
        return result


def peak_bytes(work: Callable[[], None]) -> int:
    """Return the most bytes that tensors created by `work` held at once."""
    with torch.inference_mode(), _Counter() as counter:
        work()
    return counter.peak_bytes
