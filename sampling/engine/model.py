"""The protocol of a loaded model that the lockstep engine drives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class ModelLimits(Protocol):
    """What admission checks a row against."""

    max_model_len: int
    max_num_batched_tokens: int
    num_blocks: int  # of the KV cache

    def num_blocks_for(self, num_tokens: int) -> int:
        """Return the number of KV cache blocks that a finished row of `num_tokens` occupies."""


class Model(ModelLimits, Protocol):
    """A model that stops at its logits and appends the tokens it is given.

    A step is `forward`, then `set_sampled_tokens`, then, once its tokens are on the host, `update_from_output`. With
    asynchronous scheduling the `forward` of the next step may come before that.
    """

    device: torch.device  # of the logits
    dtype: torch.dtype  # of the logits
    is_remote: bool  # runs in worker processes, concurrently with another model

    def add(self, request_id: str, prompt_ids: Sequence[int], max_tokens: int, *, adapted: bool = True) -> None:
        """Queue a request; the next `forward` prefills its whole prompt.

        `adapted`: apply the model's LoRA adapter, if it has one.
        """

    def begin_forward(self, num_rows: int) -> None:
        """Start a `forward` without waiting for it. Does nothing unless the model is remote."""

    def forward(self, num_rows: int) -> tuple[list[str], Tensor]:
        """Run the model on all running requests; return their ids with the logits [B, V] in the same order.

        The logits are valid until `set_sampled_tokens`. Raises LockstepError unless vLLM scheduled all `num_rows`
        requests without splitting a prompt.
        """

    def set_sampled_tokens(self, token_ids: Tensor) -> None:
        """Append one token [B] int64 to each request of the last `forward`, in its order."""

    def update_from_output(self) -> None:
        """Pass the tokens of the oldest pending step to vLLM's scheduler."""

    def finish(self, request_ids: Sequence[str]) -> None:
        """Free requests and their KV cache; unknown or finished ids are ignored."""

    def close(self) -> None:
        """Free the model's memory."""
