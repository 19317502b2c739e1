"""The next token of each row, drawn from the mixture of two models' logits."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sampling.engine.host_copy import on_device
from sampling.engine.request import Request
from sampling.engine.stats import SamplingStats
from sampling.errors import NonFiniteLogitsError
from sampling.mixture.kernel.launch import draw as fused_draw
from sampling.mixture.kernel.launch import supports
from sampling.mixture.torch_draw import FLAGS, draw_torch
from sampling.results import DIAGNOSTICS, FALLBACK, FORCED, MIXED


class Drawer:
    """Mixes, draws, counts; where the logits come from is the engine's matter."""

    def __init__(self, stats: SamplingStats, *, fused: bool = False) -> None:
        """`fused`: by the kernel of sampling/kernels, of the settings that it takes."""
        self._stats, self._fused = stats, fused

    def draw(
        self,
        rows: list[Request],
        theta_logits: Tensor,  # [B, V_theta] any float
        teacher_logits: Tensor,  # [B, V_teacher] any float
        num_ids: int,  # columns that both models know
        ids: Tensor | None = None,  # [B, num_ids] int64: the columns' ids; None: columns are ids
        likeliest: Tensor | None = None,  # [B, num_ids] bool: see sampling.mixture.mixture.mix
    ) -> tuple[Tensor, Tensor]:
        """Tokens [B] int64 with their figures [B, DIAGNOSTICS + FLAGS] float64, both on the device.

        On a GPU nothing waits for it, but where plain torch mixes (sampling/mixture/kernel/launch.py says when).
        """
        groups = _by_settings(rows)
        if len(groups) == 1:  # as a rule: then no logits are copied
            drawn = self._draw_alike(rows, theta_logits, teacher_logits, num_ids, ids, likeliest)
        else:
            device = theta_logits.device
            token_ids = torch.zeros(len(rows), dtype=torch.int64, device=device)
            diagnostics = torch.zeros(len(rows), len(DIAGNOSTICS) + len(FLAGS), dtype=torch.float64, device=device)
            for places in groups:
                at = on_device(places, device)
                some = (None if tensor is None else tensor[at] for tensor in (ids, likeliest))
                group = [rows[place] for place in places]
                token_ids[at], diagnostics[at] = self._draw_alike(
                    group, theta_logits[at], teacher_logits[at], num_ids, *some
                )
            drawn = token_ids, diagnostics
        for row in rows:
            row.num_drawn += 1
        return drawn

    def _draw_alike(
        self,
        rows: list[Request],
        theta_logits: Tensor,
        teacher_logits: Tensor,
        num_ids: int,
        ids: Tensor | None,
        likeliest: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """`draw` for rows of one call."""
        mixture, sampling = rows[0].context.mixture, rows[0].context.sampling
        positions = on_device([row.num_drawn for row in rows], theta_logits.device)
        keys = on_device([row.key for row in rows], theta_logits.device)
        if self._fused and supports(mixture, sampling):
            return fused_draw(theta_logits, teacher_logits, positions, keys, num_ids, mixture, sampling)
        columns, diagnostics = draw_torch(
            theta_logits, teacher_logits, positions, keys, num_ids, mixture, sampling, likeliest
        )
        return columns if ids is None else ids.gather(-1, columns[:, None]).squeeze(-1), diagnostics

    def distribute(
        self, request_ids: list[str], rows: list[Request], token_ids: Tensor, diagnostics: Tensor
    ) -> list[str]:
        """Give each row its token, on the host; returns the request ids of rows that ended."""
        host = diagnostics.numpy()
        finite, constrained, unstable = host[:, -len(FLAGS) :].T > 0
        checked = np.array([row.context.mixture.stability_check for row in rows], dtype=bool)
        symmetric = np.array([row.context.mixture.alpha_method == "kl_symmetry" for row in rows], dtype=bool)
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
            elif row.append(token_id, host[place, : len(DIAGNOSTICS)]):
                self._stats.num_requests += 1
                finished.append(request_id)
        return finished

    def _count(
        self,
        diagnostics: NDArray[np.float64],
        constrained: NDArray[np.bool_],
        unstable: NDArray[np.bool_],
        checked: NDArray[np.bool_],
        symmetric: NDArray[np.bool_],
    ) -> None:
        stats, mode = self._stats, diagnostics[:, DIAGNOSTICS.index("mode")]
        solved = symmetric & (mode == MIXED)
        stats.num_tokens += len(mode)
        stats.num_forced += int((mode == FORCED).sum())
        stats.num_fallback += int((mode == FALLBACK).sum())
        stats.num_constrained += int(constrained.sum())
        stats.num_stability_checks += int((checked & (mode != FORCED)).sum())
        stats.num_unstable += int((unstable & checked & (mode != FORCED)).sum())
        errors = diagnostics[solved, DIAGNOSTICS.index("kl_error")]
        stats.max_kl_error = max(stats.max_kl_error, float(errors.max(initial=0.0)))


def _by_settings(rows: list[Request]) -> list[list[int]]:
    """Places of the rows that share their settings; one group but for streams side by side."""
    groups: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(id(row.context), []).append(place)
    return list(groups.values())
