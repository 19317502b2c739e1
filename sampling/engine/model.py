"""What lockstep asks of a loaded model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Model(Protocol):
    """A model that stops at its logits and takes the tokens it is given.

    A step is `forward`, then `set_sampled_tokens`, then, when its tokens are on the host, `update_from_output`. With
    asynchronous scheduling the next step's `forward` may come before that.
    """

    max_model_len: int
    max_num_batched_tokens: int
    num_blocks: int  # of the KV cache
    device: torch.device  # of the logits
    dtype: torch.dtype  # of the logits
    is_remote: bool  # it runs in processes of its own, at the same time as another model

    def num_blocks_for(self, num_tokens: int) -> int:
        """KV cache blocks that a row of so many tokens takes at its end."""

    def add(self, request_id: str, prompt_ids: Sequence[int], max_tokens: int, *, adapted: bool = True) -> None:
        """Queue a request; the next `forward` prefills its whole prompt.

        `adapted`: the model's LoRA adapter, if it has one, applies.
        """

    def begin_forward(self, num_rows: int) -> None:
        """Start a `forward` without waiting for it, where the model is remote."""

    def forward(self, num_rows: int) -> tuple[list[str], Tensor]:
        """Run the model on every running request; returns the request ids with their logits [B, V], in that order.

        Raises LockstepError when vLLM did not schedule all `num_rows` whole.
        """

    def set_sampled_tokens(self, token_ids: Tensor) -> None:
        """Append one token [B] int64 to each request of the last `forward`, in its order."""

    def update_from_output(self) -> None:
        """Tell vLLM's scheduler the tokens of the oldest step whose tokens were set."""

    def finish(self, request_ids: Sequence[str]) -> None:
        """Free requests and their KV cache; ids that are unknown or finished are passed over."""

    def close(self) -> None:
        """Give the model's memory back."""
