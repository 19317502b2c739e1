"""One model that reads both prompts of every row in one batch (self-distillation).

Theta is the teacher without its hint: both prompts of a row are two requests of one engine, so that the weights are
loaded once, and read once per step. Where one of the two is the other with a LoRA adapter, only its requests use that.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sampling.engine.host_copy import on_device
from sampling.engine.model import Model

THETA, TEACHER = "s", "t"  # prefix of a request's id: it reads the student's prompt, or the teacher's


class SharedWeightsView:
    """The `Model` (see there for the methods) of one prompt, backed by the shared engine.

    Theta's view is called first in every step: its `forward` runs both.
    """

    is_remote = False  # both views are one engine, with nothing to run beside

    def __init__(self, shared: SharedWeightsEngine, prompt: str, max_model_len: int, adapted: bool) -> None:
        self._shared, self._prompt, self._adapted = shared, prompt, adapted
        self.max_model_len = max_model_len
        engine = shared.engine
        self.max_num_batched_tokens, self.num_blocks = engine.max_num_batched_tokens, engine.num_blocks
        self.num_blocks_for = engine.num_blocks_for
        self.device, self.dtype = engine.device, engine.dtype

    def add(self, request_id: str, prompt_ids: Sequence[int], max_tokens: int, *, adapted: bool = True) -> None:
        """Queue a request, with the LoRA adapter if it is this view's."""
        self._shared.engine.add(self._prompt + request_id, prompt_ids, max_tokens, adapted=adapted and self._adapted)

    def begin_forward(self, num_rows: int) -> None:
        """Do nothing: `forward` of theta's view runs both."""

    def forward(self, num_rows: int) -> tuple[list[str], Tensor]:
        return self._shared.forward(self._prompt, num_rows)

    def set_sampled_tokens(self, token_ids: Tensor) -> None:  # [B] int64
        self._shared.set_sampled_tokens(self._prompt, token_ids)

    def update_from_output(self) -> None:
        if self._prompt == TEACHER:  # once for both views
            self._shared.engine.update_from_output()

    def finish(self, request_ids: Sequence[str]) -> None:
        self._shared.engine.finish([self._prompt + request_id for request_id in request_ids])

    def close(self) -> None:
        if self._prompt == TEACHER:  # likewise
            self._shared.engine.close()


class SharedWeightsEngine:
    """The shared engine with its two views, `theta` and `teacher`."""

    def __init__(self, engine: Model, max_model_lens: tuple[int, int], adapted: tuple[bool, bool]) -> None:
        """Theta's value comes first. `adapted`: whether the engine's LoRA adapter applies."""
        self.engine = engine
        self.theta = SharedWeightsView(self, THETA, max_model_lens[0], adapted[0])
        self.teacher = SharedWeightsView(self, TEACHER, max_model_lens[1], adapted[1])
        self._request_ids: list[str] = []
        self._logits = torch.empty(0)  # [2B, V]
        self._indices: dict[str, Tensor] = {}  # of each view's requests in the engine's batch, [B] int64
        self._tokens = torch.empty(0)  # [2B] int64

    def forward(self, prompt: str, num_rows: int) -> tuple[list[str], Tensor]:
        """Return one view's part of the batch; theta's call runs it."""
        if prompt == THETA:
            self._request_ids, self._logits = self.engine.forward(2 * num_rows)
        indices = [index for index, request_id in enumerate(self._request_ids) if request_id.startswith(prompt)]
        self._indices[prompt] = on_device(indices, self._logits.device)
        logits = self._logits[self._indices[prompt]]
        if prompt == TEACHER:
            self._logits = torch.empty(0)  # free them
        return [self._request_ids[index].removeprefix(prompt) for index in indices], logits

    def set_sampled_tokens(self, prompt: str, token_ids: Tensor) -> None:  # [B] int64
        """Keep theta's tokens until the teacher's arrive, then pass both to the engine."""
        if prompt == THETA:
            self._tokens = torch.empty(len(self._request_ids), dtype=token_ids.dtype, device=token_ids.device)
        self._tokens[self._indices[prompt]] = token_ids
        if prompt == TEACHER:
            self.engine.set_sampled_tokens(self._tokens)
