"""One completion in flight."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from sampling.config import MixtureConfig, SamplingConfig
from sampling.engine.detokenizer import Detokenizer, decode
from sampling.errors import RowError
from sampling.mixture.draw import row_key
from sampling.results import DIAGNOSTICS, MODES, DrawnToken, DualOutput, FailedRow, FinishReason, TokenDiagnostics

ALPHA, MODE = DIAGNOSTICS.index("alpha"), DIAGNOSTICS.index("mode")
LOGPROBS = DIAGNOSTICS.index("logprob_q"), DIAGNOSTICS.index("logprob_theta"), DIAGNOSTICS.index("logprob_teacher")

NUM_KEPT = 64  # tokens that a row's figures have room for at first; it doubles

Inbox = deque["DualOutput | Future[DualOutput] | FailedRow | DrawnToken"]


@dataclass(frozen=True, eq=False)
class RequestContext:
    """What the rows of one call share."""

    mixture: MixtureConfig
    sampling: SamplingConfig
    eos_ids: frozenset[int]
    tokenizer: PreTrainedTokenizerBase
    inbox: Inbox = field(default_factory=deque)
    streamed: bool = False
    finisher: Executor | None = None  # where a finished row's text and columns are made; None: at once


class Request:
    """One completion, from its prompts to its last token."""

    def __init__(
        self,
        row_id: str,
        sample_idx: int,
        theta_prompt: tuple[int, ...],
        teacher_prompt: tuple[int, ...],
        context: RequestContext,
    ) -> None:
        self.id, self.sample_idx = row_id, sample_idx
        self.theta_prompt, self.teacher_prompt = theta_prompt, teacher_prompt
        self.context = context
        self.key = row_key(row_id, sample_idx)
        self.num_drawn = 0  # tokens; with two steps in flight the last one may not be in token_ids yet
        self.token_ids: list[int] = []
        self._diagnostics = np.empty((NUM_KEPT, len(DIAGNOSTICS)))
        watched = context.streamed or context.sampling.stop
        self._detokenizer = Detokenizer(context.tokenizer) if watched else None

    @property
    def is_drawn(self) -> bool:
        """Its last token was drawn, whatever it is."""
        return self.num_drawn >= self.context.sampling.max_tokens

    def append(self, token_id: int, diagnostics: NDArray[np.float64]) -> bool:
        """Take a drawn token with its figures (in the order of DIAGNOSTICS); True when the row is finished.

        A streamed token, and the output of a finished row, go to the inbox.
        """
        if len(self.token_ids) == len(self._diagnostics):
            self._diagnostics = np.concatenate([self._diagnostics, np.empty_like(self._diagnostics)])
        self._diagnostics[len(self.token_ids)] = diagnostics
        self.token_ids.append(token_id)
        reason: FinishReason | None = self._ends_with(token_id)
        piece, stop_at = "", None
        if self._detokenizer and reason is None:
            piece = self._detokenizer.append(token_id)
            stop_at = self._stop_position(self._detokenizer.text, len(piece))
            if stop_at is not None:
                reason = "stop"
        if reason is None and len(self.token_ids) >= self.context.sampling.max_tokens:
            reason = "length"
        if self.context.streamed:
            self.context.inbox.append(self._drawn(token_id, piece, diagnostics, reason))
        elif reason is not None:
            finisher = self.context.finisher
            output = finisher.submit(self._output, reason, stop_at) if finisher else self._output(reason, stop_at)
            self.context.inbox.append(output)
        return reason is not None

    def fail(self, error: RowError) -> None:
        """End the row with an error."""
        self.context.inbox.append(FailedRow(self.id, self.sample_idx, error))

    def _ends_with(self, token_id: int) -> FinishReason | None:
        if token_id in self.context.eos_ids:
            return "eos"
        return "stop" if token_id in self.context.sampling.stop_token_ids else None

    def _stop_position(self, text: str, num_new: int) -> int | None:
        """Where the first stop string begins that ends in the `num_new` last characters."""
        found = [
            position
            for stop in self.context.sampling.stop
            if (position := text.find(stop, max(0, len(text) - num_new - len(stop) + 1))) >= 0
        ]
        return min(found, default=None)

    def _drawn(
        self, token_id: int, piece: str, diagnostics: NDArray[np.float64], reason: FinishReason | None
    ) -> DrawnToken:
        logprob_q, logprob_theta, logprob_teacher = (float(diagnostics[column]) for column in LOGPROBS)
        return DrawnToken(
            token_id=token_id,
            text=piece,
            mode=MODES[int(diagnostics[MODE])],
            alpha=float(diagnostics[ALPHA]),
            logprob_q=logprob_q,
            logprob_theta=logprob_theta,
            logprob_teacher=logprob_teacher,
            finish_reason=reason,
        )

    def _output(self, reason: FinishReason, stop_at: int | None) -> DualOutput:
        if stop_at is not None and self._detokenizer:
            text = self._detokenizer.text[:stop_at]
        else:
            text = decode(self.context.tokenizer, self.token_ids if reason == "length" else self.token_ids[:-1])
        return DualOutput(
            id=self.id,
            sample_idx=self.sample_idx,
            text=text,
            token_ids=tuple(self.token_ids),
            finish_reason=reason,
            num_theta_prompt_tokens=len(self.theta_prompt),
            num_teacher_prompt_tokens=len(self.teacher_prompt),
            diagnostics=_diagnostics(self._diagnostics[: len(self.token_ids)].T),
        )


def _diagnostics(diagnostics: NDArray[np.float64]) -> TokenDiagnostics:  # [F, T]
    kinds = {"overlap_count": np.int32, "support_size": np.int32, "mode": np.uint8}
    columns = {
        name: values.astype(kinds.get(name, np.float32)) for name, values in zip(DIAGNOSTICS, diagnostics, strict=True)
    }
    return TokenDiagnostics(**columns)
