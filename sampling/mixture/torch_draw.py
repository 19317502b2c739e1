"""The draw of one token a row, with its diagnostics, in plain torch: the kernel's reference and its substitute."""

from __future__ import annotations

import torch
from torch import Tensor

from sampling.config import MixtureConfig, SamplingConfig
from sampling.mixture.draw import argmax_indices, draw_indices
from sampling.mixture.mixture import Mixture, kl_error, mix
from sampling.results import DIAGNOSTICS

FLAGS = ("finite", "constrained", "unstable")  # of a token, beside its DIAGNOSTICS: counted, not published
COLUMNS = (*DIAGNOSTICS, *FLAGS)


def draw_torch(
    theta_logits: Tensor,  # [B, V_theta] any float
    teacher_logits: Tensor,  # [B, V_teacher] any float
    positions: Tensor,  # [B] int64; 0 is the first token
    keys: Tensor,  # [B] int64: see sampling.mixture.draw.row_key
    num_ids: int,
    mixture: MixtureConfig,
    sampling: SamplingConfig,
    likeliest: Tensor | None = None,  # [B, num_ids] bool: see sampling.mixture.mixture.mix
) -> tuple[Tensor, Tensor]:
    """Return columns [B] int64 drawn from q*, with their diagnostics [B, COLUMNS] float64."""
    mixed = mix(theta_logits, teacher_logits, positions == 0, num_ids, mixture, sampling, likeliest)
    if sampling.temperature == 0:
        indices = argmax_indices(mixed.log_q)[:, None]
    else:
        indices = draw_indices(mixed.log_q, sampling.seed, keys, positions)[:, None]
    drawn = mixed.ids.gather(-1, indices)
    return drawn.squeeze(-1), _diagnostics_of(mixed, drawn, indices)


def _diagnostics_of(mixture: Mixture, token_ids: Tensor, indices: Tensor) -> Tensor:
    """Diagnostics [B, COLUMNS] float64 of drawn tokens [B, 1], which are columns [B, 1] of q*."""
    exact = torch.zeros_like(mixture.alpha)
    named = {
        "kl_error": kl_error(mixture),
        "logprob_q": mixture.log_q.gather(-1, indices).squeeze(-1),
        "logprob_theta": mixture.log_theta.gather(-1, token_ids).squeeze(-1),
        "logprob_teacher": mixture.log_teacher.gather(-1, token_ids).squeeze(-1),
        "q_error": exact,  # the HTTP backend fills both in
        "js_error": exact,
    }
    columns = [named[name] if name in named else getattr(mixture, name) for name in COLUMNS]
    return torch.stack([column.double() for column in columns], dim=-1)
