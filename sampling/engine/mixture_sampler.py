"""The sampler that draws each row's next token from the mixture of two models' logits."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sampling.engine.host_copy import on_device
from sampling.engine.request import Request
from sampling.engine.stats import SamplingStats
from sampling.errors import NonFiniteLogitsError
from sampling.mixture.endings import merge_endings
from sampling.mixture.kernel.launch import draw as fused_draw
from sampling.mixture.kernel.launch import supports
from sampling.mixture.torch_draw import FLAGS, draw_torch
from sampling.results import DIAGNOSTICS, FALLBACK, FORCED, MIXED


class MixtureSampler:
    """Mixes logits, draws tokens, counts them in `stats`."""

    def __init__(self, stats: SamplingStats, *, fused: bool = False) -> None:
        """`fused`: use the Triton kernel (sampling/mixture/kernel) for the settings that it supports."""
        self._stats, self._fused = stats, fused

    def draw(
        self,
        rows: list[Request],
        theta_logits: Tensor,  # [B, V_theta] any float
        teacher_logits: Tensor,  # [B, V_teacher] any float
        num_ids: int,  # columns that both models know
        ids: Tensor | None = None,  # [B, num_ids] int64: the columns' ids, their endings merged; None: columns are ids
        likeliest: Tensor | None = None,  # [B, num_ids] bool: see sampling.mixture.mixture.mix
    ) -> tuple[Tensor, Tensor]:
        """Return tokens [B] int64 with their diagnostics [B, DIAGNOSTICS + FLAGS] float64, both on the device.

        Does not synchronise with a GPU, except where plain torch mixes (see sampling/mixture/kernel/launch.py).
        """
        groups: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            groups.setdefault(id(row.context), []).append(index)
        if len(groups) > 1:  # concurrent streams; otherwise no logits are copied
            device = theta_logits.device
            token_ids = torch.zeros(len(rows), dtype=torch.int64, device=device)
            diagnostics = torch.zeros(len(rows), len(DIAGNOSTICS) + len(FLAGS), dtype=torch.float64, device=device)
            for indices in groups.values():
                at = on_device(indices, device)
                options = (None if tensor is None else tensor[at] for tensor in (ids, likeliest))
                token_ids[at], diagnostics[at] = self.draw(
                    [rows[index] for index in indices], theta_logits[at], teacher_logits[at], num_ids, *options
                )
            return token_ids, diagnostics
        context = rows[0].context
        mixture, sampling = context.mixture, context.sampling
        if context.merged_ids and ids is None:
            theta_logits, teacher_logits = (
                merge_endings(logits, context.merged_ids, sampling.temperature)
                for logits in (theta_logits, teacher_logits)
            )
        positions = on_device([row.num_drawn for row in rows], theta_logits.device)
        keys = on_device([row.key for row in rows], theta_logits.device)
        for row in rows:
            row.num_drawn += 1
        if self._fused and supports(mixture, sampling):
            return fused_draw(theta_logits, teacher_logits, positions, keys, num_ids, mixture, sampling)
        columns, diagnostics = draw_torch(
            theta_logits, teacher_logits, positions, keys, num_ids, mixture, sampling, likeliest
        )
        return columns if ids is None else ids.gather(-1, columns[:, None]).squeeze(-1), diagnostics

    def distribute(
        self, request_ids: list[str], rows: list[Request], token_ids: Tensor, diagnostics: Tensor
    ) -> list[str]:
        """Append each row's token, given on the host; return the request ids of rows that ended."""
        values = diagnostics.numpy()
        finite = self._count(rows, values)
        finished = []
        for index, (request_id, row, token_id) in enumerate(zip(request_ids, rows, token_ids.tolist(), strict=True)):
            if not finite[index]:
                row.fail(
                    NonFiniteLogitsError(
                        f"row {row.id}: a model gave NaN, +inf or no finite logit at token {len(row.token_ids)};"
                        " no token was drawn; check the model's weights and dtype"
                    )
                )
                finished.append(request_id)
            elif row.append(token_id, values[index, : len(DIAGNOSTICS)]):
                self._stats.num_requests += 1
                finished.append(request_id)
        return finished

    def _count(self, rows: list[Request], values: NDArray[np.float64]) -> NDArray[np.bool_]:  # [B, DIAGNOSTICS + FLAGS]
        """Add to the totals; return whether each row's logits are usable [B]."""
        finite: NDArray[np.bool_]
        finite, constrained, unstable = values[:, -len(FLAGS) :].T > 0
        mode, kl_error = (values[:, DIAGNOSTICS.index(name)] for name in ("mode", "kl_error"))
        mixtures = [row.context.mixture for row in rows]
        checked = finite & np.array([config.stability_check for config in mixtures], dtype=bool) & (mode != FORCED)
        symmetric = np.array([config.alpha_method == "kl_symmetry" for config in mixtures], dtype=bool)
        stats = self._stats
        stats.num_failed += int((~finite).sum())
        stats.num_tokens += int(finite.sum())
        stats.num_forced += int((finite & (mode == FORCED)).sum())
        stats.num_fallback += int((finite & (mode == FALLBACK)).sum())
        stats.num_constrained += int((finite & constrained).sum())
        stats.num_stability_checks += int(checked.sum())
        stats.num_unstable += int((unstable & checked).sum())
        solved = finite & symmetric & (mode == MIXED)
        stats.max_kl_error = max(stats.max_kl_error, float(kl_error[solved].max(initial=0.0)))
        return finite
