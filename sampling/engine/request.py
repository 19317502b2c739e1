"""The state of one completion while it is sampled."""

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

INITIAL_CAPACITY = 64  # tokens that a row's diagnostics hold at first; it doubles

Inbox = deque["DualOutput | Future[DualOutput] | FailedRow | DrawnToken"]


@dataclass(frozen=True, eq=False)
class RequestContext:
    """The settings, tokenizer and output queue that the rows of one call share."""

    mixture: MixtureConfig
    sampling: SamplingConfig
    eos_ids: tuple[int, ...]  # each ends a completion; the first stands for all where endings are merged
    tokenizer: PreTrainedTokenizerBase
    inbox: Inbox = field(default_factory=deque)
    streamed: bool = False
    finisher: Executor | None = None  # builds the outputs of finished rows; None: build them inline

    @property
    def merged_ids(self) -> tuple[int, ...]:
        """Return the ids to count as one event, the first of them standing for all; empty where there is nothing to."""
        return self.eos_ids if self.mixture.merge_endings and len(self.eos_ids) > 1 else ()


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
        self.num_drawn = 0  # tokens; with two steps in flight the last may not be in token_ids yet
        self.token_ids: list[int] = []
        self._diagnostics = np.empty((INITIAL_CAPACITY, len(DIAGNOSTICS)))
        needs_text = context.streamed or context.sampling.stop
        self._detokenizer = Detokenizer(context.tokenizer) if needs_text else None

    @property
    def is_drawn(self) -> bool:
        """Whether `max_tokens` tokens were drawn."""
        return self.num_drawn >= self.context.sampling.max_tokens

    def append(self, token_id: int, diagnostics: NDArray[np.float64]) -> bool:
        """Append a drawn token with its DIAGNOSTICS [F]; return True when the row is finished.

        Puts a streamed token, or the output of a finished row, into the context's inbox.
        """
        if len(self.token_ids) == len(self._diagnostics):
            self._diagnostics = np.concatenate([self._diagnostics, np.empty_like(self._diagnostics)])
        self._diagnostics[len(self.token_ids)] = diagnostics
        self.token_ids.append(token_id)
        reason: FinishReason | None = None
        if token_id in self.context.eos_ids:
            reason = "eos"
        elif token_id in self.context.sampling.stop_token_ids:
            reason = "stop"
        piece, stop_at = "", None
        if self._detokenizer and reason is None:
            piece = self._detokenizer.append(token_id)
            stop_at = self._stop_position(self._detokenizer.text, len(piece))
            if stop_at is not None:
                reason = "stop"
        if reason is None and len(self.token_ids) >= self.context.sampling.max_tokens:
            reason = "length"
        if self.context.streamed:
            self.context.inbox.append(_drawn_token(token_id, piece, diagnostics, reason))
        elif reason is not None:
            finisher = self.context.finisher
            output = finisher.submit(self._output, reason, stop_at) if finisher else self._output(reason, stop_at)
            self.context.inbox.append(output)
        return reason is not None

    def fail(self, error: RowError) -> None:
        """End the row with an error."""
        self.context.inbox.append(FailedRow(self.id, self.sample_idx, error))

    def _stop_position(self, text: str, num_new: int) -> int | None:
        """Return where the first stop string begins that ends in the last `num_new` characters."""
        found = (text.find(stop, max(0, len(text) - num_new - len(stop) + 1)) for stop in self.context.sampling.stop)
        return min((position for position in found if position >= 0), default=None)

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


def _drawn_token(token_id: int, text: str, diagnostics: NDArray[np.float64], reason: FinishReason | None) -> DrawnToken:
    values = dict(zip(DIAGNOSTICS, map(float, diagnostics), strict=True))
    fields = {name: values[name] for name in ("alpha", "logprob_q", "logprob_theta", "logprob_teacher")}
    return DrawnToken(token_id, text, MODES[int(values["mode"])], **fields, finish_reason=reason)


def _diagnostics(diagnostics: NDArray[np.float64]) -> TokenDiagnostics:  # [F, T]
    dtypes = {"overlap_count": np.int32, "support_size": np.int32, "mode": np.uint8}
    columns = {
        name: values.astype(dtypes.get(name, np.float32)) for name, values in zip(DIAGNOSTICS, diagnostics, strict=True)
    }
    return TokenDiagnostics(**columns)
