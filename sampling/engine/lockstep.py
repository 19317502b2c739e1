"""The engine that advances two models in lockstep.

A step: admit rows, run both models, mix their logits on the device, draw one token per row, append the same ids in
both models. One thread runs all of it, so there is no barrier, no timeout, no dead-lock.

On a GPU two steps are in flight: a step is launched before the tokens of the previous one are on the host, which hides
Python's work behind the models'. A row at `max_tokens` stops in time; a row ended by an EOS or a stop string has been
drawn one token more by then, which is dropped.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from sampling.engine.host_copy import HostCopy, on_device
from sampling.engine.mixture_sampler import MixtureSampler
from sampling.engine.model import Model
from sampling.engine.request import Request, RequestContext
from sampling.engine.scheduler import Scheduler
from sampling.engine.shared_weights import SharedWeightsView
from sampling.engine.stats import SamplingStats
from sampling.engine.timing import Stopwatch
from sampling.errors import LockstepError


@dataclass(frozen=True, slots=True)
class Step:
    """One drawn token of each of B rows, being copied to the host."""

    request_ids: list[str]
    rows: list[Request]
    drawn: HostCopy  # token ids [B] int64, diagnostics [B, DIAGNOSTICS + FLAGS] float64
    watch: Stopwatch


class LockstepEngine:
    """Draws the next token of every running row from the mixture of two models."""

    def __init__(
        self,
        theta: Model,
        teacher: Model,
        num_ids: int,
        max_num_seqs: int,
        *,
        steps_in_flight: int = 1,
        fused: bool = False,
    ) -> None:
        self.theta, self.teacher = theta, teacher
        # theta first, unless only theta is in workers: those are waited for last
        self._models = sorted((("theta", theta), ("teacher", teacher)), key=lambda item: item[1].is_remote)
        self.num_ids = num_ids  # ids that both models know; columns past them are padding
        self.max_num_seqs = max_num_seqs
        self.scheduler = Scheduler(theta, teacher, max_num_seqs, shared_weights=isinstance(theta, SharedWeightsView))
        self.stats = SamplingStats()
        self._sampler = MixtureSampler(self.stats, fused=fused)
        self._steps_in_flight = steps_in_flight
        self._in_flight: deque[Step] = deque()
        self._is_poisoned = False  # a step did not end: vLLM's caches may name blocks that were never computed
        # The stream of the loading thread: vLLM gives each thread its own, and `step` runs in any thread.
        is_cuda = theta.device.type == "cuda"
        self._stream = torch.cuda.current_stream(theta.device) if is_cuda else None

    def close(self) -> None:
        """Free both models' memory."""
        self.theta.close()
        self.teacher.close()

    def abort(self, context: RequestContext) -> None:
        """Drop all rows of one call; their tokens in flight are ignored on arrival."""
        self._release(self.scheduler.withdraw(context))

    @torch.inference_mode()
    def step(self) -> None:
        """Admit rows, launch a token for each running one; collect the oldest step in flight.

        A step is collected once `steps_in_flight` of them are pending, or nothing is left to launch. Raises
        LockstepError when an earlier step was broken off.
        """
        if self._is_poisoned:
            raise LockstepError(
                "an earlier step was broken off by an error or by Ctrl-C: what the engines hold may not be what was"
                " computed; load the models again"
            )
        self._is_poisoned = True
        start = time.perf_counter()
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            launched = self._launch()
            if self._in_flight and (not launched or len(self._in_flight) >= self._steps_in_flight):
                self._collect(self._in_flight.popleft())
        self.stats.total_s += time.perf_counter() - start
        self._is_poisoned = False

    def _launch(self) -> bool:
        """Launch one step; return False when no row needs a token."""
        for request_id, row in self.scheduler.admit():
            # one more than needed: rows end here, never inside vLLM
            max_tokens = row.context.sampling.max_tokens + 1
            self.theta.add(request_id, row.theta_prompt, max_tokens)
            self.teacher.add(request_id, row.teacher_prompt, max_tokens)
        running = self.scheduler.running
        num_rows = sum(not row.is_drawn for row in running.values())
        if not num_rows:
            return False
        watch = Stopwatch(self.theta.device)
        forwards = self._forward(num_rows, watch)
        request_ids, theta_logits = forwards["theta"]
        teacher_order, teacher_logits = forwards["teacher"]
        rows = [running[request_id] for request_id in request_ids]
        teacher_logits = _reordered(teacher_logits, teacher_order, request_ids)
        token_ids, diagnostics = self._sampler.draw(rows, theta_logits, teacher_logits, self.num_ids)
        watch.mark("mixing")
        tokens = {"theta": token_ids, "teacher": _reordered(token_ids, request_ids, teacher_order)}
        for name, model in self._models:
            model.set_sampled_tokens(tokens[name])
            watch.mark(name)
        self._in_flight.append(Step(request_ids, rows, HostCopy(token_ids, diagnostics), watch))
        if drawn := [request_id for request_id, row in zip(request_ids, rows, strict=True) if row.is_drawn]:
            self._finish(drawn)  # or vLLM would schedule them again
        return True

    def _forward(self, num_rows: int, watch: Stopwatch) -> dict[str, tuple[list[str], Tensor]]:
        """Run both forward passes, concurrently where one model is in worker processes."""
        for model in (self.theta, self.teacher):
            if model.is_remote:
                model.begin_forward(num_rows)
        forwards = {}
        for name, model in self._models:
            forwards[name] = model.forward(num_rows)
            watch.mark(name)
        return forwards

    def _collect(self, step: Step) -> None:
        """Wait for a step's tokens; append them to its rows."""
        token_ids, diagnostics = step.drawn.wait()
        watch = Stopwatch(self.theta.device, is_host=True)
        self.theta.update_from_output()
        watch.mark("theta")
        self.teacher.update_from_output()
        watch.mark("teacher")
        request_ids, rows = step.request_ids, step.rows
        alive = [index for index, request_id in enumerate(request_ids) if request_id in self.scheduler.running]
        if len(alive) < len(rows):  # some ended by an EOS in the previous step, or their call was aborted
            request_ids, rows = [request_ids[index] for index in alive], [rows[index] for index in alive]
            token_ids, diagnostics = token_ids[alive], diagnostics[alive]
        self._release(self._sampler.distribute(request_ids, rows, token_ids, diagnostics))
        watch.mark("mixing")
        for parts in (step.watch.parts(), watch.parts()):
            self.stats.theta_s += parts.get("theta", 0.0)
            self.stats.teacher_s += parts.get("teacher", 0.0)
            self.stats.mixing_s += parts.get("mixing", 0.0)
        self.stats.num_steps += 1

    def _release(self, request_ids: list[str]) -> None:
        if request_ids:
            self._finish(request_ids)
            self.scheduler.release(request_ids)

    def _finish(self, request_ids: list[str]) -> None:
        self.theta.finish(request_ids)
        self.teacher.finish(request_ids)


def _reordered(values: Tensor, order: list[str], wanted: list[str]) -> Tensor:
    """Permute rows [B, …] from one order of request ids to another: each model orders its own batch."""
    if order == wanted:
        return values
    indices = {request_id: index for index, request_id in enumerate(order)}
    return values[on_device([indices[request_id] for request_id in wanted], values.device)]
