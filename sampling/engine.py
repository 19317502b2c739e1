"""Two engines in lockstep.

A step: admit rows, run both models, mix their logits on the device, draw one token a row, hand the same ids to
both engines. One thread decides everything, so there is no barrier, no timeout, nothing to dead-lock.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sampling.drawer import Drawer
from sampling.row import Settings
from sampling.scheduler import Scheduler
from sampling.stats import SamplingStats
from sampling.vllm_engine import VllmEngine


class LockstepEngine:
    """Draws the next token of every running row from the mixture of two engines."""

    def __init__(self, theta: VllmEngine, teacher: VllmEngine, num_ids: int, max_num_seqs: int) -> None:
        self.theta, self.teacher = theta, teacher
        self.num_ids = num_ids  # ids that both models know; columns past them are padding
        self.max_num_seqs = max_num_seqs
        self.scheduler = Scheduler(theta, teacher, max_num_seqs)
        self.stats = SamplingStats()
        self._drawer = Drawer(self.stats)

    def close(self) -> None:
        """Give both models' memory back."""
        self.theta.close()
        self.teacher.close()

    def abort(self, settings: Settings) -> None:
        """Drop all rows of one call."""
        self._release(self.scheduler.withdraw(settings))

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
                token_ids, figures = self._drawer.draw(rows, theta_logits, teacher_logits, self.num_ids)
            with self._timed("theta_s"):
                self.theta.commit(token_ids)
            with self._timed("teacher_s"):
                self.teacher.commit(_reordered(token_ids, request_ids, teacher_order))
            with self._timed("mixing_s"):
                finished = self._drawer.distribute(request_ids, rows, token_ids, figures)
            self._release(finished)
            self.stats.num_steps += 1

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


def _reordered(values: Tensor, order: list[str], wanted: list[str]) -> Tensor:
    """Rows [B, …] that stand in one order of request ids, put into another: each engine orders its own batch."""
    if order == wanted:
        return values
    places = {request_id: place for place, request_id in enumerate(order)}
    return values[torch.tensor([places[request_id] for request_id in wanted], device=values.device)]
