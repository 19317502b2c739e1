"""The next token of each row, drawn from the mixture of two models' logits."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sampling.config import MixtureConfig, SamplingConfig
from sampling.draw import draw_places, likeliest_places
from sampling.errors import NonFiniteLogitsError
from sampling.host_copy import on_device
from sampling.kernels.launch import draw as fused_draw
from sampling.kernels.launch import supports
from sampling.mixture import Mixture, kl_error, mix
from sampling.results import FALLBACK, FORCED, MIXED
from sampling.row import FIGURES, Row
from sampling.stats import SamplingStats

COUNTED = ("finite", "constrained", "unstable")  # travel beside FIGURES


class Drawer:
    """Mixes, draws, counts; where the logits come from is the engine's matter."""

    def __init__(self, stats: SamplingStats, *, fused: bool = False) -> None:
        """`fused`: by the kernel of sampling/kernels, of the settings that it takes."""
        self._stats, self._fused = stats, fused

    def draw(
        self,
        rows: list[Row],
        theta_logits: Tensor,  # [B, V_theta] any float
        teacher_logits: Tensor,  # [B, V_teacher] any float
        num_ids: int,  # columns that both models know
        ids: Tensor | None = None,  # [B, num_ids] int64: the columns' ids; None: columns are ids
        likeliest: Tensor | None = None,  # [B, num_ids] bool: see sampling.mixture.mix
    ) -> tuple[Tensor, Tensor]:
        """Tokens [B] int64 with their figures [B, FIGURES + COUNTED] float64, both on the device.

        On a GPU nothing waits for it, but where plain torch mixes (sampling/kernels/launch.py says when).
        """
        groups = _by_settings(rows)
        if len(groups) == 1:  # as a rule: then no logits are copied
            drawn = self._draw_alike(rows, theta_logits, teacher_logits, num_ids, ids, likeliest)
        else:
            device = theta_logits.device
            token_ids = torch.zeros(len(rows), dtype=torch.int64, device=device)
            figures = torch.zeros(len(rows), len(FIGURES) + len(COUNTED), dtype=torch.float64, device=device)
            for places in groups:
                at = on_device(places, device)
                some = (None if tensor is None else tensor[at] for tensor in (ids, likeliest))
                group = [rows[place] for place in places]
                token_ids[at], figures[at] = self._draw_alike(
                    group, theta_logits[at], teacher_logits[at], num_ids, *some
                )
            drawn = token_ids, figures
        for row in rows:
            row.num_drawn += 1
        return drawn

    def _draw_alike(
        self,
        rows: list[Row],
        theta_logits: Tensor,
        teacher_logits: Tensor,
        num_ids: int,
        ids: Tensor | None,
        likeliest: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """`draw` for rows of one call."""
        mixture, sampling = rows[0].settings.mixture, rows[0].settings.sampling
        positions = on_device([row.num_drawn for row in rows], theta_logits.device)
        keys = on_device([row.key for row in rows], theta_logits.device)
        if self._fused and supports(mixture, sampling):
            return fused_draw(theta_logits, teacher_logits, positions, keys, num_ids, mixture, sampling)
        columns, figures = draw_plainly(
            theta_logits, teacher_logits, positions, keys, num_ids, mixture, sampling, likeliest
        )
        return columns if ids is None else ids.gather(-1, columns[:, None]).squeeze(-1), figures

    def distribute(self, request_ids: list[str], rows: list[Row], token_ids: Tensor, figures: Tensor) -> list[str]:
        """Give each row its token, on the host; returns the request ids of rows that ended."""
        host = figures.numpy()
        finite, constrained, unstable = host[:, -len(COUNTED) :].T > 0
        checked = np.array([row.settings.mixture.stability_check for row in rows], dtype=bool)
        symmetric = np.array([row.settings.mixture.alpha_method == "kl_symmetry" for row in rows], dtype=bool)
        self._count(host[finite], constrained[finite], unstable[finite], checked[finite], symmetric[finite])
        finished = []
        for place, (request_id, row, token_id) in enumerate(zip(request_ids, rows, token_ids.tolist(), strict=True)):
            if not finite[place]:
                self._stats.num_failed += 1
                row.fail(
                    NonFiniteLogitsError(
                        f"row {row.id}: a model gave NaN, +inf or no finite logit at token {len(row.token_ids)};"
                        " no token was drawn; check the model's weights and dtype"
                    )
                )
                finished.append(request_id)
            elif row.append(token_id, host[place, : len(FIGURES)]):
                self._stats.num_requests += 1
                finished.append(request_id)
        return finished

    def _count(
        self,
        figures: NDArray[np.float64],
        constrained: NDArray[np.bool_],
        unstable: NDArray[np.bool_],
        checked: NDArray[np.bool_],
        symmetric: NDArray[np.bool_],
    ) -> None:
        stats, mode = self._stats, figures[:, FIGURES.index("mode")]
        solved = symmetric & (mode == MIXED)
        stats.num_tokens += len(mode)
        stats.num_forced += int((mode == FORCED).sum())
        stats.num_fallback += int((mode == FALLBACK).sum())
        stats.num_constrained += int(constrained.sum())
        stats.num_stability_checks += int((checked & (mode != FORCED)).sum())
        stats.num_unstable += int((unstable & checked & (mode != FORCED)).sum())
        errors = figures[solved, FIGURES.index("kl_error")]
        stats.max_kl_error = max(stats.max_kl_error, float(errors.max(initial=0.0)))


def draw_plainly(
    theta_logits: Tensor,  # [B, V_theta] any float
    teacher_logits: Tensor,  # [B, V_teacher] any float
    positions: Tensor,  # [B] int64; 0 is the first token
    keys: Tensor,  # [B] int64: see sampling.draw.row_key
    num_ids: int,
    mixture: MixtureConfig,
    sampling: SamplingConfig,
    likeliest: Tensor | None = None,  # [B, num_ids] bool
) -> tuple[Tensor, Tensor]:
    """Columns [B] int64 drawn in plain torch, with their figures [B, FIGURES + COUNTED] float64."""
    mixed = mix(theta_logits, teacher_logits, positions == 0, num_ids, mixture, sampling, likeliest)
    if sampling.temperature == 0:
        places = likeliest_places(mixed.log_q)[:, None]
    else:
        places = draw_places(mixed.log_q, sampling.seed, keys, positions)[:, None]
    drawn = mixed.ids.gather(-1, places)
    return drawn.squeeze(-1), _figures(mixed, drawn, places)


def _by_settings(rows: list[Row]) -> list[list[int]]:
    """Places of the rows that share their settings; one group but for streams side by side."""
    groups: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(id(row.settings), []).append(place)
    return list(groups.values())


def _figures(mixture: Mixture, token_ids: Tensor, places: Tensor) -> Tensor:
    """The figures [B, FIGURES + COUNTED] float64 of drawn tokens [B, 1], which stand at places [B, 1] of q*."""
    named = {
        "kl_error": kl_error(mixture),
        "logprob_q": mixture.log_q.gather(-1, places).squeeze(-1),
        "logprob_theta": mixture.log_theta.gather(-1, token_ids).squeeze(-1),
        "logprob_teacher": mixture.log_teacher.gather(-1, token_ids).squeeze(-1),
    }
    exact = torch.zeros_like(mixture.alpha)
    named |= {"q_error": exact, "js_error": exact}  # whose replies bound them fills them in
    columns = [named[name] if name in named else getattr(mixture, name) for name in (*FIGURES, *COUNTED)]
    return torch.stack([column.double() for column in columns], dim=-1)
