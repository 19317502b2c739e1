"""One copy of a model that reads both prompts of every row, in one batch.

Self-distillation: theta is the teacher without its hint. Both prompts of a row are two requests of one engine, so that
the weights are loaded once, and read once a step. Where one of the two is the other with a LoRA adapter, its requests
alone carry that.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sampling.engine.host_copy import on_device
from sampling.engine.model import Model

THETA, TEACHER = "s", "t"  # a request's id begins with the prompt it reads: the student's, the teacher's


class SharedWeightsView:
    """One prompt's side of the copy, which lockstep takes for an engine.

    Theta's comes first in every call: its `forward` runs both.
    """

    def __init__(self, copy: SharedWeightsEngine, prompt: str, max_model_len: int, adapted: bool) -> None:
        self._copy, self._prompt, self._adapted = copy, prompt, adapted
        self.max_model_len = max_model_len
        engine = copy.engine
        self.max_num_batched_tokens, self.num_blocks = engine.max_num_batched_tokens, engine.num_blocks
        self.num_blocks_for = engine.num_blocks_for
        self.device, self.dtype = engine.device, engine.dtype
        self.is_remote = False  # both views are one engine, which has nothing to run beside

    def add(self, request_id: str, prompt_ids: Sequence[int], max_tokens: int, *, adapted: bool = True) -> None:
        """Queue a request; the next `forward` prefills its whole prompt. Its adapter is this view's."""
        self._copy.engine.add(self._prompt + request_id, prompt_ids, max_tokens, adapted=adapted and self._adapted)

    def begin_forward(self, num_rows: int) -> None:
        """Do nothing: `forward` of theta's view runs both."""

    def forward(self, num_rows: int) -> tuple[list[str], Tensor]:
        """Request ids with their logits [B, V] for this prompt."""
        return self._copy.forward(self._prompt, num_rows)

    def set_sampled_tokens(self, token_ids: Tensor) -> None:  # [B] int64, in the order of this side's forward
        """Append one token to each request."""
        self._copy.set_sampled_tokens(self._prompt, token_ids)

    def update_from_output(self) -> None:
        """Tell vLLM's scheduler the tokens of the oldest step that was committed."""
        if self._prompt == TEACHER:
            self._copy.engine.update_from_output()

    def finish(self, request_ids: Sequence[str]) -> None:
        """Free requests and their KV cache."""
        self._copy.engine.finish([self._prompt + request_id for request_id in request_ids])

    def close(self) -> None:
        """Give the model's memory back."""
        if self._prompt == TEACHER:
            self._copy.engine.close()


class SharedWeightsEngine:
    """The engine with its two sides."""

    def __init__(self, engine: Model, lengths: tuple[int, int], adapted: tuple[bool, bool]) -> None:
        """Of theta's side, then the teacher's: its longest row in tokens, whether the engine's adapter applies."""
        self.engine = engine
        self.theta = SharedWeightsView(self, THETA, lengths[0], adapted[0])
        self.teacher = SharedWeightsView(self, TEACHER, lengths[1], adapted[1])
        self._request_ids: list[str] = []
        self._logits: Tensor | None = None
        self._places: dict[str, Tensor] = {}  # of each side's requests in the engine's batch, [B] int64
        self._tokens: Tensor | None = None

    def forward(self, prompt: str, num_rows: int) -> tuple[list[str], Tensor]:
        """One side of the batch; theta's runs it."""
        if prompt == THETA:
            self._request_ids, self._logits = self.engine.forward(2 * num_rows)
        assert self._logits is not None
        places = [place for place, request_id in enumerate(self._request_ids) if request_id.startswith(prompt)]
        self._places[prompt] = on_device(places, self._logits.device)
        logits = self._logits[self._places[prompt]]
        if prompt == TEACHER:
            self._logits = None
        return [self._request_ids[place].removeprefix(prompt) for place in places], logits

    def set_sampled_tokens(self, prompt: str, token_ids: Tensor) -> None:  # [B] int64
        """Keep theta's tokens until the teacher's come, then hand over both."""
        if prompt == THETA:
            self._tokens = torch.empty(len(self._request_ids), dtype=token_ids.dtype, device=token_ids.device)
        assert self._tokens is not None
        self._tokens[self._places[prompt]] = token_ids
        if prompt == TEACHER:
            self.engine.set_sampled_tokens(self._tokens)
