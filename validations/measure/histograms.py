"""Histograms and sums by position over a dataset's tokens, for the report's plots."""

from __future__ import annotations

import numpy as np

from sampling.results import FALLBACK, MIXED
from validations.measure.aggregates import ByPosition, Correctness, Histogram, TokenGap
from validations.measure.metadata import Vocabulary
from validations.measure.tokens import Tokens, gaps

SHARES = np.linspace(0.0, 1.0, 51)
LOG10_KL_ERROR = np.linspace(-20.0, 0.0, 41)  # nats; an error of exactly 0 is counted in the first bin
LOG10_ESS_RATIO = np.linspace(-6.0, 6.0, 49)
MAX_POSITION = 1 << 20
NUM_LENGTHS = 40
NUM_ALPHAS = 10
NUM_GAPS, MAX_TOKEN_ID = 10, 1 << 21
LEAST_TOKENS = 100  # a rate of fewer tokens at a position is noise


def _position_starts() -> np.ndarray:
    """Return 0 to 31, then ranges that grow by a tenth: 140 in all up to 2^20."""
    starts = list(range(32))
    while starts[-1] < MAX_POSITION:
        starts.append(max(starts[-1] + 1, round(starts[-1] * 1.1)))
    return np.array(starts)


STARTS = _position_starts()
SUMS = ("num_tokens", "num_mixed", "num_fallback", "alpha", "alpha_squared", "js", "overlap_mass")


class TokenHistograms:
    """Sums over batches of tokens, of constant size."""

    def __init__(self) -> None:
        self._alpha = np.zeros(len(SHARES) - 1, dtype=np.int64)
        self._kl_error = np.zeros(len(LOG10_KL_ERROR) - 1, dtype=np.int64)
        self._overlap = np.zeros(len(SHARES) - 1, dtype=np.int64)
        self._ess = np.zeros(len(LOG10_ESS_RATIO) - 1, dtype=np.int64)
        self._sums = {name: np.zeros(len(STARTS)) for name in SUMS}
        self._lengths: dict[str, np.ndarray] = {}  # completions by their number of tokens
        self._gaps = np.zeros((2, 0))  # by token id: the number of positive ones, their sum in nats
        self._graded = np.zeros((2, NUM_ALPHAS), dtype=np.int64)  # right ones, all

    def add(self, tokens: Tokens) -> None:
        """Add the tokens of a batch."""
        mixed = tokens.mode == MIXED
        alpha = tokens.columns["alpha"].astype(np.float64)  # squares in float32 would show a deviation of 1e-4
        self._alpha += _counted(alpha[mixed], SHARES)
        self._overlap += _counted(tokens.columns["overlap_mass"], SHARES)
        with np.errstate(divide="ignore", invalid="ignore"):
            self._kl_error += _counted(np.log10(tokens.columns["kl_error"][mixed]), LOG10_KL_ERROR)
            self._ess += _counted(np.log10(tokens.columns["ess_ratio"][mixed]), LOG10_ESS_RATIO)
        bins = np.searchsorted(STARTS, tokens.position, side="right") - 1
        mixed_alpha = np.where(mixed, alpha, 0.0)
        for name, weights in (
            ("num_tokens", None),
            ("num_mixed", mixed),
            ("num_fallback", tokens.mode == FALLBACK),
            ("alpha", mixed_alpha),
            ("alpha_squared", mixed_alpha * mixed_alpha),
            ("js", tokens.columns["js"]),
            ("overlap_mass", tokens.columns["overlap_mass"]),
        ):
            self._sums[name] += np.bincount(bins, weights, minlength=len(STARTS))

        gap = gaps(tokens)
        known = (gap > 0) & (tokens.token_ids >= 0) & (tokens.token_ids < MAX_TOKEN_ID)
        ids = tokens.token_ids[known]
        size = max(self._gaps.shape[1], int(ids.max()) + 1 if len(ids) else 0)
        counted = [np.bincount(ids, weights, size) for weights in (None, gap[known])]
        self._gaps = np.pad(self._gaps, ((0, 0), (0, size - self._gaps.shape[1]))) + counted

    def add_lengths(self, reason: str, num_tokens: np.ndarray) -> None:  # [N] int64, ≥ 0
        """Add the lengths of completions with one finish reason; longer ones count as 2^20."""
        counts = np.bincount(np.minimum(num_tokens, MAX_POSITION))  # a length of 2^31 would take 16 GB
        before = self._lengths.get(reason, np.zeros(0, dtype=np.int64))
        size = max(len(before), len(counts))
        self._lengths[reason] = np.pad(before, (0, size - len(before))) + np.pad(counts, (0, size - len(counts)))

    def add_grades(self, mean_alpha: np.ndarray, correct: np.ndarray) -> None:  # [N] float64, [N] bool
        """Add completions whose final answer was compared."""
        bins = np.clip(np.nan_to_num(mean_alpha) * NUM_ALPHAS, 0, NUM_ALPHAS - 1).astype(np.int64)
        self._graded += [np.bincount(bins[correct], minlength=NUM_ALPHAS), np.bincount(bins, minlength=NUM_ALPHAS)]

    def gaps(self, vocabulary: Vocabulary | None) -> list[TokenGap]:
        """Return the tokens that hold most of log π_t − log π_θ, the largest share first."""
        counts, sums = self._gaps
        largest = np.argsort(-sums, kind="stable")[:NUM_GAPS]
        return [
            TokenGap(
                "".join(vocabulary.pieces([token])) if vocabulary else f"⟨{token}⟩",
                int(counts[token]),
                float(sums[token] / counts[token]),
                float(sums[token] / sums.sum()),
            )
            for token in map(int, largest)
            if sums[token] > 0
        ]

    def max_fallback_rate(self) -> float | None:
        """Return the largest share of fallback tokens in a range of positions; None where none holds LEAST_TOKENS."""
        enough = self._sums["num_tokens"] >= LEAST_TOKENS
        if not enough.any():
            return None
        return float((self._sums["num_fallback"][enough] / self._sums["num_tokens"][enough]).max())

    def histograms(self) -> dict[str, Histogram]:
        """Return the histograms over tokens, by the field of `Aggregates`."""
        return {
            "alpha": _histogram(SHARES, self._alpha),
            "log10_kl_error": _histogram(LOG10_KL_ERROR, self._kl_error),
            "overlap_mass": _histogram(SHARES, self._overlap),
            "log10_ess_ratio": _histogram(LOG10_ESS_RATIO, self._ess),
        }

    def lengths(self) -> dict[str, Histogram]:
        """Return histograms of the number of tokens, by finish reason."""
        longest = max((len(counts) - 1 for counts in self._lengths.values()), default=0)
        edges = np.arange(0, longest + 2) if longest < NUM_LENGTHS else np.linspace(0, longest + 1, NUM_LENGTHS + 1)
        return {
            reason: _histogram(edges, np.histogram(np.arange(len(counts)), edges, weights=counts)[0])
            for reason, counts in self._lengths.items()
        }

    def by_position(self) -> ByPosition:
        """Return the means of the ranges that hold a token."""
        held = np.flatnonzero(self._sums["num_tokens"])
        sums = {name: values[held] for name, values in self._sums.items()}
        mean_alpha = _means(sums["alpha"], sums["num_mixed"])
        mean_square = _means(sums["alpha_squared"], sums["num_mixed"])
        deviations = [
            None if mean is None or square is None else float(np.sqrt(max(0.0, square - mean * mean)))
            for mean, square in zip(mean_alpha, mean_square, strict=True)
        ]
        return ByPosition(
            starts=STARTS[held].tolist(),
            stops=np.append(STARTS[1:], 2 * MAX_POSITION)[held].tolist(),
            num_tokens=sums["num_tokens"].astype(np.int64).tolist(),
            mean_alpha=mean_alpha,
            sd_alpha=deviations,
            mean_js=_means(sums["js"], sums["num_tokens"]),
            mean_overlap_mass=_means(sums["overlap_mass"], sums["num_tokens"]),
            fallback_rate=_means(sums["num_fallback"], sums["num_tokens"]),
        )

    def correctness(self) -> Correctness | None:
        """Return None where no answer was compared."""
        if not self._graded.any():
            return None
        correct, judged = self._graded.tolist()
        return Correctness(np.linspace(0.0, 1.0, NUM_ALPHAS + 1).tolist(), judged, correct)


def _counted(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return counts [N] int64 in evenly spaced bins; values outside count in the outer bins, NaN in none."""
    num = len(edges) - 1
    values = values[~np.isnan(values)]
    scaled = (values.astype(np.float64) - edges[0]) * (num / (edges[-1] - edges[0]))
    return np.bincount(np.clip(scaled, 0, num - 1).astype(np.int64), minlength=num)


def _histogram(edges: np.ndarray, counts: np.ndarray) -> Histogram:
    return Histogram(edges.astype(float).tolist(), counts.astype(np.int64).tolist())


def _means(sums: np.ndarray, counts: np.ndarray) -> list[float | None]:
    return [
        float(total / count) if count and np.isfinite(total) else None
        for total, count in zip(sums, counts, strict=True)
    ]
