"""Two engines in lockstep.

A step: admit rows, run both models, mix their logits on the device, draw one token a row, hand the same ids to
both engines. One thread decides everything, so there is no barrier, no timeout, nothing to dead-lock.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sampling.draw import draw_places, likeliest_places
from sampling.errors import NonFiniteLogitsError
from sampling.mixture import Mixture, kl_error, mix
from sampling.results import FALLBACK, FORCED, MIXED
from sampling.row import FIGURES, Row, Settings
from sampling.scheduler import Scheduler
from sampling.stats import SamplingStats
from sampling.vllm_engine import VllmEngine

COUNTED = ("finite", "constrained", "unstable")  # travel beside FIGURES


class LockstepEngine:
    """Draws the next token of every running row from the mixture of two engines."""

    def __init__(self, theta: VllmEngine, teacher: VllmEngine, num_ids: int, max_num_seqs: int) -> None:
        self.theta, self.teacher = theta, teacher
        self.num_ids = num_ids  # ids that both models know; columns past them are padding
        self.max_num_seqs = max_num_seqs
        self.scheduler = Scheduler(theta, teacher, max_num_seqs)
        self.stats = SamplingStats()

    def add(self, row: Row) -> None:
        """Queue a row. Raises RowError when it could never run."""
        self.scheduler.check(row)
        self.scheduler.waiting.append(row)

    def abort(self, settings: Settings) -> None:
        """Drop all rows of one call."""
        scheduler = self.scheduler
        kept = [row for row in scheduler.waiting if row.settings is not settings]
        scheduler.waiting.clear()
        scheduler.waiting.extend(kept)
        self._release([key for key, row in scheduler.running.items() if row.settings is settings])

    @torch.inference_mode()
    def step(self) -> None:
        """Draw one token for every row that runs after admission; does nothing when none does."""
        with self._timed("total_s"):
            for request_id, row in self.scheduler.admit():
                # one token more than needed: rows end here, never inside vLLM
                max_tokens = row.settings.sampling.max_tokens + 1
                self.theta.add(request_id, row.theta_prompt, max_tokens)
                self.teacher.add(request_id, row.teacher_prompt, max_tokens)
            running = self.scheduler.running
            if not running:
                return
            with self._timed("theta_s"):
                request_ids, theta_logits = self.theta.forward(len(running))
            with self._timed("teacher_s"):
                teacher_order, teacher_logits = self.teacher.forward(len(running))
            rows = [running[request_id] for request_id in request_ids]
            with self._timed("mixing_s"):
                teacher_logits = _reordered(teacher_logits, teacher_order, request_ids)
                token_ids, figures = self._draw(rows, theta_logits, teacher_logits)
            with self._timed("theta_s"):
                self.theta.commit(token_ids)
            with self._timed("teacher_s"):
                self.teacher.commit(_reordered(token_ids, request_ids, teacher_order))
            with self._timed("mixing_s"):
                finished = self._distribute(request_ids, rows, token_ids, figures)
            self._release(finished)
            self.stats.num_steps += 1

    def _draw(self, rows: list[Row], theta_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
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
            mixture = mix(*logits, positions == 0, self.num_ids, mixture_config, sampling)
            if sampling.temperature == 0:
                places_drawn = likeliest_places(mixture.log_q)
            else:
                places_drawn = draw_places(mixture.log_q, sampling.seed, keys, positions)
            drawn = mixture.ids.gather(-1, places_drawn[:, None])
            token_ids[at] = drawn.squeeze(-1)
            figures[at] = _figures(mixture, drawn, places_drawn[:, None])
        return token_ids, figures

    def _distribute(self, request_ids: list[str], rows: list[Row], token_ids: Tensor, figures: Tensor) -> list[str]:
        """Give each row its token; returns the request ids of rows that ended."""
        host = figures.cpu().numpy()
        finite, constrained, unstable = host[:, -len(COUNTED) :].T > 0
        checked = np.array([row.settings.mixture.stability_check for row in rows])
        symmetric = np.array([row.settings.mixture.alpha_method == "kl_symmetry" for row in rows])
        self._count(host[finite], constrained[finite], unstable[finite], checked[finite], symmetric[finite])
        finished = []
        for place, (request_id, row, token_id) in enumerate(zip(request_ids, rows, token_ids.tolist(), strict=True)):
            if not finite[place]:
                self.stats.num_failed += 1
                row.fail(
                    NonFiniteLogitsError(
                        f"row {row.id}: a model gave NaN, +inf or no finite logit at token {len(row.token_ids)};"
                        " no token was drawn; check the model's weights and dtype"
                    )
                )
                finished.append(request_id)
            elif row.append(token_id, host[place, : len(FIGURES)]):
                self.stats.num_requests += 1
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
        stats, mode = self.stats, figures[:, FIGURES.index("mode")]
        solved = symmetric & (mode == MIXED)
        stats.num_tokens += len(mode)
        stats.num_forced += int((mode == FORCED).sum())
        stats.num_fallback += int((mode == FALLBACK).sum())
        stats.num_constrained += int(constrained.sum())
        stats.num_stability_checks += int((checked & (mode != FORCED)).sum())
        stats.num_unstable += int((unstable & checked & (mode != FORCED)).sum())
        errors = figures[solved, FIGURES.index("kl_error")]
        stats.max_kl_error = max(stats.max_kl_error, float(errors.max(initial=0.0)))

    def _release(self, request_ids: list[str]) -> None:
        if request_ids:
            self.theta.finish(request_ids)
            self.teacher.finish(request_ids)
            self.scheduler.release(request_ids)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            setattr(self.stats, name, getattr(self.stats, name) + time.perf_counter() - start)


def _by_settings(rows: list[Row]) -> Iterable[list[int]]:
    """Places of the rows that share their settings; one group but for streams side by side."""
    groups: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(id(row.settings), []).append(place)
    return groups.values()


def _reordered(values: Tensor, order: list[str], wanted: list[str]) -> Tensor:
    """Rows [B, …] that stand in one order of request ids, put into another: each engine orders its own batch."""
    if order == wanted:
        return values
    places = {request_id: place for place, request_id in enumerate(order)}
    return values[torch.tensor([places[request_id] for request_id in wanted], device=values.device)]


def _figures(mixture: Mixture, token_ids: Tensor, places: Tensor) -> Tensor:
    """The figures [B, FIGURES + COUNTED] float64 of drawn tokens [B, 1], which stand at places [B, 1] of q*."""
    named = {
        "kl_error": kl_error(mixture),
        "logprob_q": mixture.log_q.gather(-1, places).squeeze(-1),
        "logprob_theta": mixture.log_theta.gather(-1, token_ids).squeeze(-1),
        "logprob_teacher": mixture.log_teacher.gather(-1, token_ids).squeeze(-1),
    }
    columns = [named[name] if name in named else getattr(mixture, name) for name in (*FIGURES, *COUNTED)]
    return torch.stack([column.double() for column in columns], dim=-1)
