"""An independent implementation of q* with numpy, scipy's root finder and transformers."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_softmax, logsumexp, rel_entr

from sampling import MixtureConfig

Vector = NDArray[np.float64]


class Reference:
    """A greedy decoder of the mixture of two transformers models, one row at a time, without a cache."""

    def __init__(self, theta: Path, teacher: Path, num_ids: int, eos_id: int) -> None:
        self._models = [
            transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
            for path in (theta, teacher)
        ]
        self._num_ids, self._eos_id = num_ids, eos_id
        self._logits = cache(self._forward)

    @torch.inference_mode()
    def _forward(self, which: int, ids: tuple[int, ...]) -> Vector:
        logits = self._models[which](torch.tensor([ids])).logits[0, -1, : self._num_ids]
        return logits.double().numpy()

    def greedy(
        self, theta: tuple[int, ...], teacher: tuple[int, ...], config: MixtureConfig, max_tokens: int
    ) -> list[int]:
        """Return the argmax of q* at every position, up to EOS."""
        tokens: list[int] = []
        while len(tokens) < max_tokens and self._eos_id not in tokens:
            done = tuple(tokens)
            q = q_star(self._logits(0, theta + done), self._logits(1, teacher + done), config, first=not tokens)
            tokens.append(int(np.argmax(q)))
        return tokens


def q_star(theta_logits: Vector, teacher_logits: Vector, config: MixtureConfig, *, first: bool) -> Vector:
    """Return q* [V] of one position, from raw logits [V]."""
    log_theta, log_teacher = log_softmax(theta_logits), log_softmax(teacher_logits)
    theta, teacher = np.exp(log_theta), np.exp(log_teacher)
    region = np.ones(len(theta), dtype=bool)
    if config.trust_region:
        order = np.argsort(-teacher, kind="stable")
        size = int(np.searchsorted(np.cumsum(teacher[order]), config.target_top_p)) + 1
        region = teacher >= teacher[order[min(size, len(order)) - 1]]
    alpha = alpha_of(theta[region], teacher[region], config)
    if config.stability_check and config.auto_fallback:
        middle = (theta + teacher) / 2
        js = (rel_entr(theta, middle).sum() + rel_entr(teacher, middle).sum()) / 2
        tops = [set(np.argsort(-p, kind="stable")[: config.overlap_top_k]) for p in (theta, teacher)]
        shared = list(tops[0] & tops[1])
        overlap = min(theta[shared].sum(), teacher[shared].sum())
        if js > config.stability_threshold_js or overlap < config.stability_threshold_overlap:
            alpha = 1.0
    if first and config.force_first_token:
        alpha = 1.0
    scores = np.where(region, (1 - alpha) * log_theta + alpha * log_teacher, -np.inf)
    return np.exp(scores - logsumexp(scores))


def alpha_of(theta: Vector, teacher: Vector, config: MixtureConfig) -> float:
    """Return α of two distributions [V] on one support, each up to a factor."""
    log_theta, log_teacher = np.log(theta / theta.sum()), np.log(teacher / teacher.sum())

    def log_q(alpha: float) -> Vector:
        scores = (1 - alpha) * log_theta + alpha * log_teacher
        return scores - logsumexp(scores)

    def kl_gap(alpha: float) -> float:
        return float(np.exp(log_q(alpha)) @ (log_teacher - log_theta))

    def ess_gap(alpha: float) -> float:
        return float(logsumexp(2 * log_theta - log_q(alpha)) - logsumexp(2 * log_teacher - log_q(alpha)))

    if config.alpha_method == "fixed":
        return config.alpha
    if config.alpha_method == "entropy":
        nats = [-float(np.exp(p) @ p) for p in (log_theta, log_teacher)]
        return nats[0] / sum(nats) if sum(nats) else 0.5
    gap = kl_gap if config.alpha_method == "kl_symmetry" else ess_gap
    if abs(gap(0.0)) < 1e-14 and abs(gap(1.0)) < 1e-14:
        return 0.5
    return float(brentq(gap, 0.0, 1.0, xtol=1e-14, rtol=1e-14))
