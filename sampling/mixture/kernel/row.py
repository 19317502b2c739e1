"""The inputs of one row: named tuples that the kernel's functions share, and the loads of its logits.

"Slot" means everywhere: the ids that are equal modulo BLOCK, which one lane of a program reads.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

LEAST_FINITE = tl.constexpr(-3.4028234663852886e38)  # of float32
LN2 = tl.constexpr(0.6931471805599453)


class Row(NamedTuple):
    """Both models' logits of one row."""

    theta: Any  # pointer to num_ids logits
    teacher: Any  # likewise
    num_ids: Any
    theta_max: Any  # float32: the largest logit
    teacher_max: Any
    sum_max: Any  # float32: the largest sum of the two logits of one id
    scale: Any  # float32: log2(e) / temperature
    inverse_temperature: Any  # float64


class Cutoffs(NamedTuple):
    """An id is a candidate if one of its logits, or their sum, reaches its cutoff (float32)."""

    theta: Any
    teacher: Any
    both: Any


class Candidates(NamedTuple):
    """The candidates of one row: float64, natural logarithms relative to each model's largest logit."""

    log_theta: Any
    log_teacher: Any
    in_region: Any  # bool: in the trust region


class Settings(NamedTuple):
    """Numbers of MixtureConfig and SamplingConfig; ints, else float64."""

    overlap_top_k: Any
    alpha: Any  # of alpha_method 'fixed'
    target_top_p: Any
    max_js: Any
    min_overlap: Any
    top_k: Any  # any number over num_ids for none
    top_p: Any
    log_min_p: Any  # −inf for none


@triton.jit
def load_logits(logits, ids, end, num_ids):
    """float32 logits of a block's ids, −inf past `num_ids`; a block that ends before it is loaded 16 bytes at once."""
    if end <= num_ids:
        loaded = tl.load(logits + ids)
    else:
        loaded = tl.load(logits + ids, mask=ids < num_ids, other=float("-inf"))
    return loaded.to(tl.float32)


@triton.jit
def load_pair(theta, teacher, ids, end, num_ids):
    """`load_logits` of both models; both loads are in flight together."""
    if end <= num_ids:
        theta_logits, teacher_logits = tl.load(theta + ids), tl.load(teacher + ids)
    else:
        theta_logits = tl.load(theta + ids, mask=ids < num_ids, other=float("-inf"))
        teacher_logits = tl.load(teacher + ids, mask=ids < num_ids, other=float("-inf"))
    return theta_logits.to(tl.float32), teacher_logits.to(tl.float32)
