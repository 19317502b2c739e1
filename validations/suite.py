"""The expectations that a staged dataset must meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from great_expectations.expectations.expectation import Expectation

FINISH_REASONS = ("eos", "stop", "length")


@dataclass(frozen=True)
class Limits:
    """What a dataset must keep to be published."""

    kl_error_max: float  # nats, of every mixed token
    fallback_rate_max: float  # share of all tokens
    eos_rate_min: float  # share of completions ended by EOS or a stop string
    kl_symmetric: bool  # False: α does not solve KL symmetry, so its error is not judged


def row_expectations(limits: Limits) -> list[Expectation]:
    """What each row must keep: the table of `validations.figures.to_judged_rows`."""
    import great_expectations.expectations as gxe

    def critical(limit: str, figure: str | None = None) -> dict[str, Any]:
        return _critical("rows", limit, figure)

    expectations: list[Expectation] = [
        gxe.ExpectColumnValuesToNotBeNull(column="id", **critical("an id")),
        gxe.ExpectColumnValueLengthsToBeBetween(column="id", min_value=1, **critical("≥ 1 character")),
        gxe.ExpectColumnValuesToBeBetween(column="num_tokens", min_value=1, **critical("≥ 1")),
        gxe.ExpectColumnValuesToBeInSet(
            column="finish_reason", value_set=list(FINISH_REASONS), **critical(" or ".join(FINISH_REASONS))
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="is_finite", value_set=[True], **critical("every figure present and finite")
        ),
    ]
    if limits.kl_symmetric:
        most = limits.kl_error_max
        expectations.append(
            gxe.ExpectColumnValuesToBeBetween(
                column="max_kl_error", max_value=most, **critical(f"≤ {most:g}", "kl_error_max")
            )
        )
    return expectations


def dataset_expectations(limits: Limits) -> list[Expectation]:
    """What the whole dataset must keep: the table of one row that holds its figures."""
    import great_expectations.expectations as gxe

    def at_least(figure: str, least: float) -> Expectation:
        critical = _critical("dataset", f"≥ {least:g}", figure)
        return gxe.ExpectColumnValuesToBeBetween(column=figure, min_value=least, **critical)

    def at_most(figure: str, most: float) -> Expectation:
        critical = _critical("dataset", f"≤ {most:g}", figure)
        return gxe.ExpectColumnValuesToBeBetween(column=figure, max_value=most, **critical)

    return [
        at_least("num_rows", 1),
        at_most("num_duplicates", 0),
        at_most("fallback_rate", limits.fallback_rate_max),
        at_least("eos_rate", limits.eos_rate_min),
    ]


def _critical(level: str, limit: str, figure: str | None) -> dict[str, Any]:
    """A gate, not a notice; a refusal shows the limit in these words beside that figure of the dataset."""
    return {"severity": "critical", "meta": {"level": level, "limit": limit, "figure": figure}}
