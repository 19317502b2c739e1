"""Host memory shared by a model's workers and the mixing process."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class SharedMemory:
    """An anonymous file in memory (memfd), freed with the last process that holds it, however that ends.

    Not /dev/shm, of which a container has 64 MB: a head of 150,000 ids x 5,120 columns takes 1.5 GB at start-up.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        """`descriptor`: of memory created by another process."""
        self.descriptor = os.memfd_create("dual-sampling") if descriptor is None else descriptor

    def resize(self, num_bytes: int) -> None:
        """Set the size; the contents may be lost."""
        os.ftruncate(self.descriptor, num_bytes)

    def tensor(self, shape: Sequence[int], dtype: torch.dtype, offset: int = 0) -> Tensor:
        """Return the bytes from `offset` on as a tensor, which stays valid when the memory is mapped again."""
        count = math.prod(shape)
        mapped = mmap.mmap(self.descriptor, offset + count * dtype.itemsize)
        return torch.frombuffer(mapped, dtype=dtype, count=count, offset=offset).view(*shape)

    def close(self) -> None:
        """Close the descriptor; memory is freed with its last tensor. A second call does nothing."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1


def step_buffer(memory: SharedMemory, num_rows: int, width: int, dtype: torch.dtype, pinned: bool) -> Tensor:
    """Return the buffer [num_rows, width] of a step; `pinned`: this process's GPU copies asynchronously."""
    tensor = memory.tensor((num_rows, width), dtype)
    if not pinned:
        return tensor
    cudart: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    torch.cuda.check_error(int(cudart.cudaHostRegister(tensor.data_ptr(), tensor.nbytes, 0)))
    return tensor
