"""What a report draws of a dataset: sums by bin, a few rows in full, nothing that grows with the rows."""

from __future__ import annotations

from dataclasses import dataclass, field

Metrics = dict[str, float | int | None]  # of a whole dataset, by name


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts by bin."""

    edges: list[float]  # [N+1] ascending
    counts: list[int]  # [N]; what lies outside the edges is counted in the outer bins


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
    """A row that is far out in one figure."""

    id: str
    sample_idx: int
    figure: str  # a name of ROW_COLUMNS, or num_tokens
    value: float
    num_tokens: int
    finish_reason: str
    excerpt: str  # the completion's beginning


@dataclass(frozen=True, slots=True)
class SampleRow:
    """A row in full, for reading token by token; its texts are cut to what a page bears."""

    id: str
    sample_idx: int
    why: str  # it was chosen
    theta_prompt: str | None
    teacher_prompt: str | None
    completion: str
    finish_reason: str
    reference: str | None  # the source's final answer, else its answer
    is_correct: bool | None  # None: not judged
    pieces: list[str]  # [T] text of each token; `⟨id⟩` where no tokenizer is at hand
    mode: list[str]  # [T]
    alpha: list[float]  # [T]
    kl_error: list[float]  # [T]
    logprob_q: list[float]  # [T]
    logprob_theta: list[float]  # [T] may be −inf
    logprob_teacher: list[float]  # [T] may be −inf
    num_left_out: int = 0  # tokens past the shown ones


@dataclass(frozen=True, slots=True)
class Aggregates:
    """One streaming pass over a dataset."""

    alpha: Histogram  # of mixed tokens, [0, 1]
    log10_kl_error: Histogram  # of mixed tokens; nats
    overlap_mass: Histogram  # of all tokens, [0, 1]
    log10_ess_ratio: Histogram  # of mixed tokens
    num_tokens: dict[str, Histogram]  # of completions, by finish reason; one set of edges
    by_position: ByPosition
    correctness: Correctness | None  # None: no final answer to compare with
    worst: list[WorstRow] = field(default_factory=list)
    samples: list[SampleRow] = field(default_factory=list)
