"""Aggregates of a dataset, from which a report is drawn; their size does not grow with the rows."""

from __future__ import annotations

from dataclasses import dataclass, field

Metrics = dict[str, float | int | None]  # of a whole dataset, by name; None: not measured


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of values by bin."""

    edges: list[float]  # [N+1] ascending
    counts: list[int]  # [N]; values outside the edges are counted in the outer bins


@dataclass(frozen=True, slots=True)
class ByPosition:
    """Means over the tokens of a range of positions, range by range; None where a range has no such token."""

    starts: list[int]  # [N] first position of each range, counted from 0
    stops: list[int]  # [N] past its last position
    num_tokens: list[int]  # [N]
    mean_alpha: list[float | None]  # [N] of mixed tokens
    sd_alpha: list[float | None]  # [N] of mixed tokens
    mean_js: list[float | None]  # [N] nats
    mean_overlap_mass: list[float | None]  # [N]
    fallback_rate: list[float | None]  # [N]


@dataclass(frozen=True, slots=True)
class Correctness:
    """Completions whose final answer was compared, by their mean α."""

    edges: list[float]  # [N+1] of the mean α
    num_judged: list[int]  # [N]
    num_correct: list[int]  # [N]


@dataclass(frozen=True, slots=True)
class WorstRow:
    """One of the worst rows by one metric."""

    id: str
    sample_idx: int
    metric: str  # a column of `measure_rows`
    value: float
    num_tokens: int
    finish_reason: str
    excerpt: str  # the completion's beginning


@dataclass(frozen=True, slots=True)
class TokenGap:
    """A token by how much more the teacher expects it than theta."""

    piece: str  # its text; `⟨id⟩` without a tokenizer
    num_tokens: int  # mixed ones with a positive log π_t − log π_θ
    mean_gap: float  # nats
    share: float  # of the sum over all tokens


@dataclass(frozen=True, slots=True)
class SampleRow:
    """One row in full, to be read token by token; long texts are cut."""

    id: str
    sample_idx: int
    why: str  # the reason that it was chosen
    theta_prompt: str | None
    teacher_prompt: str | None
    completion: str
    finish_reason: str
    reference: str | None  # the source's final answer, else its answer
    is_correct: bool | None  # None: not judged
    pieces: list[str]  # [T] text of each token; `⟨id⟩` without a tokenizer
    mode: list[str]  # [T]
    alpha: list[float]  # [T]
    kl_error: list[float]  # [T]
    logprob_q: list[float]  # [T]
    logprob_theta: list[float]  # [T] may be −inf
    logprob_teacher: list[float]  # [T] may be −inf
    num_left_out: int = 0  # tokens after the first T


@dataclass(frozen=True, slots=True)
class Aggregates:
    """Aggregates of one dataset."""

    alpha: Histogram  # of mixed tokens, [0, 1]
    log10_kl_error: Histogram  # of mixed tokens; nats
    overlap_mass: Histogram  # of all tokens, [0, 1]
    log10_ess_ratio: Histogram  # of mixed tokens
    num_tokens: dict[str, Histogram]  # of completions, by finish reason; one set of edges
    by_position: ByPosition
    correctness: Correctness | None  # None: no final answer to compare with
    worst: list[WorstRow] = field(default_factory=list)
    gaps: list[TokenGap] = field(default_factory=list)  # the tokens in which most of it is concentrated
    samples: list[SampleRow] = field(default_factory=list)
