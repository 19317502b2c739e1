"""The next token of each row, drawn from the mixture of two models' logits."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sampling.draw import draw_places, likeliest_places
from sampling.errors import NonFiniteLogitsError
from sampling.mixture import Mixture, kl_error, mix
from sampling.results import FALLBACK, FORCED, MIXED
from sampling.row import FIGURES, Row
from sampling.stats import SamplingStats

COUNTED = ("finite", "constrained", "unstable")  # travel beside FIGURES


class Drawer:
    """Mixes, draws, counts; where the logits come from is the engine's matter."""

    def __init__(self, stats: SamplingStats) -> None:
        self._stats = stats

    def draw(
        self,
        rows: list[Row],
        theta_logits: Tensor,  # [B, V_theta] any float
        teacher_logits: Tensor,  # [B, V_teacher] any float
        num_ids: int,  # columns that both models know
        ids: Tensor | None = None,  # [B, num_ids] int64: the columns' ids; None: columns are ids
        likeliest: Tensor | None = None,  # [B, num_ids] bool: see sampling.mixture.mix
    ) -> tuple[Tensor, Tensor]:
        """Tokens [B] int64 with their figures [B, FIGURES + COUNTED] float64, both on the device."""
        device = theta_logits.device
        token_ids = torch.zeros(len(rows), dtype=torch.int64, device=device)
        figures = torch.zeros(len(rows), len(FIGURES) + len(COUNTED), dtype=torch.float64, device=device)
        for places in _by_settings(rows):
            group = [rows[place] for place in places]
            whole = len(group) == len(rows)  # as a rule: then no logits are copied
            mixture_config, sampling = group[0].settings.mixture, group[0].settings.sampling
            at = torch.tensor(places, device=device)
            positions = torch.tensor([len(row.token_ids) for row in group], device=device)
            keys = torch.tensor([row.key for row in group], device=device)
            logits = (theta_logits, teacher_logits) if whole else (theta_logits[at], teacher_logits[at])
            named = likeliest if likeliest is None or whole else likeliest[at]
            mixture = mix(*logits, positions == 0, num_ids, mixture_config, sampling, named)
            if sampling.temperature == 0:
                places_drawn = likeliest_places(mixture.log_q)
            else:
                places_drawn = draw_places(mixture.log_q, sampling.seed, keys, positions)
            drawn = mixture.ids.gather(-1, places_drawn[:, None])
            figures[at] = _figures(mixture, drawn, places_drawn[:, None])
            token_ids[at] = (drawn if ids is None else ids[at].gather(-1, drawn)).squeeze(-1)
        return token_ids, figures

    def distribute(self, request_ids: list[str], rows: list[Row], token_ids: Tensor, figures: Tensor) -> list[str]:
        """Give each row its token; returns the request ids of rows that ended."""
        host = figures.cpu().numpy()
        finite, constrained, unstable = host[:, -len(COUNTED) :].T > 0
        checked = np.array([row.settings.mixture.stability_check for row in rows])
        symmetric = np.array([row.settings.mixture.alpha_method == "kl_symmetry" for row in rows])
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


def _by_settings(rows: list[Row]) -> Iterable[list[int]]:
    """Places of the rows that share their settings; one group but for streams side by side."""
    groups: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(id(row.settings), []).append(place)
    return groups.values()


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
