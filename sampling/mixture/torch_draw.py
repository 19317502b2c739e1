"""One token of each row with its diagnostics, drawn from q* in plain torch: what the kernel is held against."""

from __future__ import annotations

import torch
from torch import Tensor

from sampling.config import MixtureConfig, SamplingConfig
from sampling.mixture.draw import draw_places, likeliest_places
from sampling.mixture.mixture import Mixture, kl_error, mix
from sampling.results import DIAGNOSTICS

FLAGS = ("finite", "constrained", "unstable")  # of a token, beside its DIAGNOSTICS: what is counted, not published


def draw_torch(
    theta_logits: Tensor,  # [B, V_theta] any float
    teacher_logits: Tensor,  # [B, V_teacher] any float
    positions: Tensor,  # [B] int64; 0 is the first token
    keys: Tensor,  # [B] int64: see sampling.mixture.draw.row_key
    num_ids: int,
    mixture: MixtureConfig,
    sampling: SamplingConfig,
    likeliest: Tensor | None = None,  # [B, num_ids] bool
) -> tuple[Tensor, Tensor]:
    """Columns [B] int64 drawn in plain torch, with their figures [B, DIAGNOSTICS + FLAGS] float64."""
    mixed = mix(theta_logits, teacher_logits, positions == 0, num_ids, mixture, sampling, likeliest)
    if sampling.temperature == 0:
        places = likeliest_places(mixed.log_q)[:, None]
    else:
        places = draw_places(mixed.log_q, sampling.seed, keys, positions)[:, None]
    drawn = mixed.ids.gather(-1, places)
    return drawn.squeeze(-1), _diagnostics_of(mixed, drawn, places)


def _diagnostics_of(mixture: Mixture, token_ids: Tensor, places: Tensor) -> Tensor:
    """The figures [B, DIAGNOSTICS + FLAGS] float64 of drawn tokens [B, 1], which stand at places [B, 1] of q*."""
    named = {
        "kl_error": kl_error(mixture),
        "logprob_q": mixture.log_q.gather(-1, places).squeeze(-1),
        "logprob_theta": mixture.log_theta.gather(-1, token_ids).squeeze(-1),
        "logprob_teacher": mixture.log_teacher.gather(-1, token_ids).squeeze(-1),
    }
    exact = torch.zeros_like(mixture.alpha)
    named |= {"q_error": exact, "js_error": exact}  # whose replies bound them fills them in
    columns = [named[name] if name in named else getattr(mixture, name) for name in (*DIAGNOSTICS, *FLAGS)]
    return torch.stack([column.double() for column in columns], dim=-1)
