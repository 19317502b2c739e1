"""The result types of sampling: completions, failed rows, streamed tokens, per-token diagnostics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sampling.errors import RowError

FinishReason = Literal["eos", "stop", "length"]
MODES = ("mixed", "forced", "fallback")  # a token's mode is stored as its index in this tuple
MIXED, FORCED, FALLBACK = range(3)

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class TokenDiagnostics:
    """Diagnostics of each drawn token, parallel to `token_ids`; logprobs in nats, natural log."""

    alpha: Floats  # [T] teacher's weight, in [0, 1]; 1 where forced or fallback
    kl_theta: Floats  # [T] KL(q*‖π_θ) on the support, nats
    kl_teacher: Floats  # [T] KL(q*‖π_t) on the support, nats
    kl_error: Floats  # [T] |KL(q*‖π_θ) − KL(q*‖π_t)|, nats; < 1e-6 where mode is mixed under kl_symmetry
    js: Floats  # [T] Jensen-Shannon divergence of the full distributions, in [0, ln 2]
    overlap_mass: Floats  # [T] the smaller of the two masses of the shared top-k ids, in [0, 1]
    overlap_count: Ints  # [T] number of ids in both top-k sets
    support_size: Ints  # [T] number of ids with q* > 0
    entropy: Floats  # [T] H(q*), nats
    ess_ratio: Floats  # [T] ESS_θ(q*) / ESS_t(q*)
    log_z: Floats  # [T] log Z: log q* = (1−α)·log π_θ + α·log π_t − log Z; ≤ 0
    logprob_q: Floats  # [T] log q* of the drawn token
    logprob_theta: Floats  # [T] log π_θ of it, full distribution, temperature as sampled
    logprob_teacher: Floats  # [T] log π_t of it, full distribution, temperature as sampled
    # Bounds of what the HTTP backend does not know; 0 in lockstep, where everything is exact.
    q_error: Floats  # [T] upper bound of the total variation of q* from the exact one at this α, in [0, 1]
    js_error: Floats  # [T] upper bound of how much js is too small, nats
    mode: NDArray[np.uint8]  # [T] index in MODES

    @property
    def modes(self) -> list[str]:
        """Each token's mode by name."""
        return [MODES[mode] for mode in self.mode]


# A token's diagnostics are passed as one float64 row in this order, in which `mode` and the counts are whole numbers.
DIAGNOSTICS = tuple(TokenDiagnostics.__annotations__)


@dataclass(frozen=True, slots=True)
class DualOutput:
    """One finished completion."""

    id: str
    sample_idx: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    num_theta_prompt_tokens: int
    num_teacher_prompt_tokens: int
    diagnostics: TokenDiagnostics


@dataclass(frozen=True, slots=True)
class FailedRow:
    """One row that could not be sampled, with its error."""

    id: str
    sample_idx: int
    error: RowError


@dataclass(frozen=True, slots=True)
class DrawnToken:
    """One token of a stream."""

    token_id: int
    text: str  # what this token adds to the completion; "" while a UTF-8 character is incomplete
    mode: str  # one of MODES
    alpha: float
    logprob_q: float
    logprob_theta: float
    logprob_teacher: float
    finish_reason: FinishReason | None = None
