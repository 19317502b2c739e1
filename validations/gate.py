"""The gate that a dataset passes before it is published.

Great Expectations judges two tables: the scalar figures of every row, in batches, then one row with the
figures of the whole dataset. The per-token lists are never read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from validations.figures import Figures, FigureSums, read_batches, to_judged_rows
from validations.suite import Limits, dataset_expectations, row_expectations

if TYPE_CHECKING:
    from great_expectations.checkpoint import Checkpoint
    from great_expectations.data_context import EphemeralDataContext
    from great_expectations.expectations.expectation import Expectation

__all__ = ["Limits", "Verdict", "judge"]


@dataclass(frozen=True)
class Verdict:
    """What the gate found."""

    passed: bool
    refusals: tuple[str, ...]  # one an expectation that failed: its name, the limit, the value
    figures: Figures
    report: dict[str, Any]  # Great Expectations' results in the SUMMARY format; JSON


def judge(parquet_files: Sequence[Path], limits: Limits) -> Verdict:
    """Judges staged Parquet files with the columns of `sampling.record.RECORD_SCHEMA`.

    Raises RuntimeError when Great Expectations itself fails: a broken gate neither refuses nor passes.
    """
    context = _quiet_context()
    rows_checkpoint = _checkpoint(context, "rows", row_expectations(limits))
    dataset_checkpoint = _checkpoint(context, "dataset", dataset_expectations(limits))
    sums = FigureSums()
    results: list[dict[str, Any]] = []
    for rows in read_batches(parquet_files):
        sums.add(rows)
        results += _run(rows_checkpoint, to_judged_rows(rows))
    figures = sums.figures()
    results += _run(dataset_checkpoint, pd.DataFrame([figures]))
    refusals = _refusals(results, figures)
    return Verdict(not refusals, refusals, figures, {"success": not refusals, "results": results})


def _quiet_context() -> EphemeralDataContext:
    """A context in memory: no files, no usage statistics, no progress bars, no documentation site."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    return gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
            progress_bars=ProgressBarsConfig(globally=False),
            analytics_enabled=False,
        ),
    )


def _checkpoint(context: EphemeralDataContext, name: str, expectations: list[Expectation]) -> Checkpoint:
    """A checkpoint over a data frame given at each run."""
    import great_expectations as gx

    asset = context.data_sources.add_pandas(name).add_dataframe_asset(name)
    suite = context.suites.add(gx.ExpectationSuite(name, expectations=expectations))
    assert len(suite.expectations) == len(expectations), "Great Expectations dropped an expectation"
    validation = gx.ValidationDefinition(name=name, data=asset.add_batch_definition_whole_dataframe(name), suite=suite)
    return context.checkpoints.add(
        gx.Checkpoint(
            name=name,
            validation_definitions=[context.validation_definitions.add(validation)],
            result_format={"result_format": "SUMMARY"},
        )
    )


def _run(checkpoint: Checkpoint, frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The result of each expectation over one data frame."""
    (validation,) = checkpoint.run(batch_parameters={"dataframe": frame}).run_results.values()
    results: list[dict[str, Any]] = validation.to_json_dict()["results"]
    for result in results:
        if "unexpected_count" not in result["result"]:
            raise RuntimeError(f"Great Expectations could not judge: {result['exception_info']}")
    return results


def _refusals(results: list[dict[str, Any]], figures: Figures) -> tuple[str, ...]:
    """One line an expectation that failed in any batch."""
    failed: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        if not result["success"]:
            expectation = result["expectation_config"]
            name = f"{expectation['type']}({expectation['kwargs']['column']})"
            failed.setdefault(name, []).append(result)
    return tuple(_refusal(name, batches, figures) for name, batches in failed.items())


def _refusal(name: str, batches: list[dict[str, Any]], figures: Figures) -> str:
    """`expectation(column): limit …, value …`, with the number of rows outside where a row was judged."""
    meta = batches[0]["expectation_config"]["meta"]
    value = figures[meta["figure"]] if meta["figure"] else None
    if value is None:
        value = next(iter(batches[0]["result"]["partial_unexpected_list"]), None)
    shown = f"{value:.6g}" if isinstance(value, float) else repr(value)
    num_outside = sum(batch["result"]["unexpected_count"] for batch in batches)
    rows = f" in {num_outside} of {figures['num_rows']} rows" if meta["level"] == "rows" else ""
    return f"{name}: limit {meta['limit']}, value {shown}{rows}"
