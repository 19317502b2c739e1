"""The description of a model that a worker has loaded."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sampling.workers.head import HeadShape


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """Properties of the loaded model, equal on all ranks."""

    max_model_len: int
    max_num_batched_tokens: int
    num_blocks: int
    block_size: int
    num_groups: int
    dtype: torch.dtype  # of the logits
    head: HeadShape | None  # None: the head cannot be applied in another process
