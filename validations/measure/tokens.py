"""Checks of the per-token lists of a batch of rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sampling.record import TOKEN_COLUMNS
from sampling.results import MIXED, MODES

LN_2 = float(np.log(2.0))
# The lists are float32: a sum of a few of them has an error of a few times 6e-8 of the largest.
ABSOLUTE, RELATIVE = 1e-4, 1e-5
SLACK = 1e-6
GAP_NATS = 5.0  # log π_t − log π_θ of a token that the teacher expects 150 times as much: it knows something
FINITE = ("alpha", "js", "overlap_mass", "entropy", "ess_ratio", "log_z", "logprob_q")
TRUE_INFINITIES = ("kl_theta", "kl_teacher", "kl_error", "logprob_theta", "logprob_teacher")
FLOATS = tuple(name for name, kind in TOKEN_COLUMNS.items() if kind == pa.float32())


@dataclass(frozen=True, slots=True)
class Tokens:
    """The lists of N rows concatenated: T tokens. A row whose lists differ in length has none here."""

    starts: np.ndarray  # [N+1] int64 start of each row
    row: np.ndarray  # [T] int64 row of each token
    position: np.ndarray  # [T] int64 within its row
    token_ids: np.ndarray  # [T] int32
    mode: np.ndarray  # [T] int8 index in MODES, −1 for an unknown mode
    columns: dict[str, np.ndarray]  # [T] each: float32, int32
    aligned: np.ndarray  # [N] bool every list has num_tokens elements

    def __len__(self) -> int:
        return len(self.token_ids)

    def all_of(self, good: np.ndarray) -> np.ndarray:  # [T] bool
        """Return [N] bool whether all tokens of a row are good; True for a row without tokens."""
        return np.bincount(self.row[~good], minlength=len(self.aligned)) == 0

    def mean_of(self, values: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:  # [T], [T] bool
        """Return means [N] float64 by row, of some tokens or all; NaN for a row without any."""
        row = self.row if among is None else self.row[among]
        values = values if among is None else values[among]
        with np.errstate(invalid="ignore"):
            return np.bincount(row, values, len(self.aligned)) / np.bincount(row, minlength=len(self.aligned))


def flatten(table: pa.Table) -> Tokens:
    """Concatenate the token lists of a table with the columns of RECORD_SCHEMA."""
    lengths = _lengths(table["num_tokens"])
    aligned = np.ones(len(table), dtype=bool)
    for name in ("token_ids", *TOKEN_COLUMNS):
        aligned &= _lengths(pc.list_value_length(table[name])) == lengths
    if not aligned.all():
        table = table.filter(pa.array(aligned))
    lengths = np.where(aligned, lengths, 0)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    row = np.repeat(np.arange(len(lengths)), lengths)
    columns = {name: _flat(table[name]) for name in TOKEN_COLUMNS if name != "mode"}
    mode = pc.index_in(_values(table["mode"]), pa.array(MODES)).fill_null(-1).to_numpy().astype(np.int8)
    return Tokens(starts, row, np.arange(len(row)) - starts[row], _flat(table["token_ids"]), mode, columns, aligned)


def judge_tokens(tokens: Tokens) -> dict[str, np.ndarray]:
    """Return whether each row's tokens pass: [N] bool by the name of the check."""
    values = {name: column.astype(np.float64) for name, column in tokens.columns.items()}
    alpha, mixed = values["alpha"], tokens.mode == MIXED
    logprobs = (values["logprob_q"], values["logprob_theta"], values["logprob_teacher"])
    with np.errstate(invalid="ignore"):
        good = {
            "is_finite": _is_finite(values, mixed),
            "mode_is_known": tokens.mode >= 0,
            "alpha_in_range": ~((alpha < 0) | (alpha > 1)),
            "alpha_is_one_unless_mixed": mixed | (alpha == 1),
            "js_in_range": ~((values["js"] < -SLACK) | (values["js"] > LN_2 + SLACK)),
            "overlap_in_range": ~((values["overlap_mass"] < -SLACK) | (values["overlap_mass"] > 1 + SLACK)),
            "logprobs_not_positive": ~np.logical_or.reduce([logprob > SLACK for logprob in logprobs]),
            "kls_not_negative": ~((values["kl_theta"] < -SLACK) | (values["kl_teacher"] < -SLACK)),
            "kl_error_is_the_kls_distance": ~mixed | _is_the_distance(values),
            "q_is_consistent": _is_consistent(values),
            "ess_ratio_in_range": ~(values["ess_ratio"] < 0.0),
            "entropy_in_range": ~((values["entropy"] < -SLACK) | (values["entropy"] > _largest_entropy(values))),
        }
    return {"lists_align": tokens.aligned, **{name: tokens.all_of(kept) for name, kept in good.items()}}


def max_kl_error(tokens: Tokens) -> np.ndarray:
    """Return the largest KL error [N] float64 of each row's mixed tokens, NaN where it has none."""
    largest = np.full(len(tokens.aligned), -np.inf)
    mixed = tokens.mode == MIXED
    with np.errstate(invalid="ignore"):  # NaN stays NaN
        np.maximum.at(largest, tokens.row[mixed], tokens.columns["kl_error"][mixed].astype(np.float64))
    return np.where(np.isneginf(largest), np.nan, largest)


def gaps(tokens: Tokens) -> np.ndarray:
    """Return log π_t − log π_θ of each token [T] float64, nats; 0 where it is not mixed, or one is infinite."""
    teacher, theta = (tokens.columns[f"logprob_{side}"].astype(np.float64) for side in ("teacher", "theta"))
    with np.errstate(invalid="ignore"):
        gap = teacher - theta
    return np.where((tokens.mode == MIXED) & np.isfinite(gap), gap, 0.0)


def gap_rate(tokens: Tokens) -> np.ndarray:
    """Return the share of each row's mixed tokens [N] float64 with a gap above GAP_NATS, NaN where it has none."""
    return tokens.mean_of((gaps(tokens) > GAP_NATS).astype(np.float64), tokens.mode == MIXED)


def metrics_match_tokens(table: pa.Table, tokens: Tokens, largest: np.ndarray) -> np.ndarray:
    """Return whether each row's means and counts are those of its lists: [N] bool; `largest` is of `max_kl_error`."""
    matches = np.ones(len(table), dtype=bool)
    for index, mode in enumerate(MODES):
        counted = np.bincount(tokens.row[tokens.mode == index], minlength=len(table))
        matches &= _lengths(table[f"num_{mode}"]) == counted
    for name in FLOATS:
        mean = tokens.mean_of(tokens.columns[name], tokens.mode == MIXED if name == "kl_error" else None)
        matches &= _are_close(_flat_scalar(table[f"mean_{name}"]), mean)
    matches &= _are_close(_flat_scalar(table["max_kl_error"]), largest)
    return matches | ~tokens.aligned


def _is_finite(values: dict[str, np.ndarray], mixed: np.ndarray) -> np.ndarray:
    """Return [T] bool whether the values are finite that must be.

    At α = 1 the token is the teacher's alone and may be impossible under theta: log π_θ = −inf and KL = inf are then
    right. At α = 0 (a mixed token with a fixed α, or one of the entropy method) it is theta's alone. A mixed token in
    between is possible under both.
    """
    alpha = values["alpha"]
    finite = np.logical_and.reduce([np.isfinite(values[name]) for name in FINITE])
    present = np.logical_and.reduce([~np.isnan(values[name]) for name in TRUE_INFINITIES])
    theta = np.isfinite(values["logprob_theta"]) | (alpha == 1)
    teacher = np.isfinite(values["logprob_teacher"]) | (alpha == 0)
    error = np.isfinite(values["kl_error"]) | ~mixed | (alpha == 0) | (alpha == 1)
    return finite & present & theta & teacher & error


def _is_the_distance(values: dict[str, np.ndarray]) -> np.ndarray:
    """Return whether kl_error = |kl_theta − kl_teacher|; True where one is infinite or missing: is_finite checks it."""
    distance = np.abs(values["kl_theta"] - values["kl_teacher"])
    size = np.maximum(np.abs(values["kl_theta"]), np.abs(values["kl_teacher"]))
    return ~(np.abs(values["kl_error"] - distance) > SLACK + RELATIVE * size)


def _is_consistent(values: dict[str, np.ndarray]) -> np.ndarray:
    """Return whether log q* = (1−α)·log π_θ + α·log π_t − log Z; a weight of 0 leaves its model out."""
    alpha = values["alpha"]
    theta = np.where(alpha == 1, 0.0, (1 - alpha) * values["logprob_theta"])
    teacher = np.where(alpha == 0, 0.0, alpha * values["logprob_teacher"])
    size = np.where(alpha == 1, 0.0, np.abs(values["logprob_theta"])) + np.abs(values["logprob_teacher"])
    off = np.abs(theta + teacher - values["log_z"] - values["logprob_q"])
    return ~(off > ABSOLUTE + RELATIVE * (np.where(alpha == 0, 0.0, size) + np.abs(values["log_z"])))


def _largest_entropy(values: dict[str, np.ndarray]) -> np.ndarray:
    return np.log(np.maximum(values["support_size"], 1.0)) * (1 + RELATIVE) + ABSOLUTE


def _are_close(stored: np.ndarray, computed: np.ndarray) -> np.ndarray:  # [N] float64 each
    with np.errstate(invalid="ignore"):
        near = np.abs(stored - computed) <= ABSOLUTE * (1 + np.abs(computed))
    return near | (stored == computed) | (np.isnan(stored) & np.isnan(computed))


def _values(column: pa.ChunkedArray) -> pa.Array:
    """Return a list column's values, concatenated."""
    flat = pc.list_flatten(column)
    return flat.combine_chunks() if isinstance(flat, pa.ChunkedArray) else flat


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    values = _values(column)
    if values.null_count:  # only in datasets made elsewhere, whose integers may be unsigned
        is_integer = pa.types.is_integer(values.type)
        values = values.cast(pa.int64()).fill_null(-1) if is_integer else values.fill_null(float("nan"))
    return values.to_numpy(zero_copy_only=False)


def _flat_scalar(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column of numbers [N] float64, null as NaN."""
    return pc.cast(column, pa.float64()).to_numpy().copy()


def _lengths(column: pa.ChunkedArray) -> np.ndarray:
    """Return integers [N] int64, −1 for null."""
    return pc.fill_null(pc.cast(column, pa.int64()), -1).to_numpy()
