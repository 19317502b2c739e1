"""Tests of the quality gate for a folder, with its own or other limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sampling.errors import ConfigurationError, SourceError
from tasks.publish.dataset import open_dataset
from tasks.publish.judge import changed_limits, judge_again
from tests.tasks.runs import make_config
from tests.validations.tables import made_rows, to_table, written
from validations.limits import Limits


@pytest.mark.parametrize(
    ("change", "name", "value"),
    [
        ("eos_rate_min=0.25", "eos_rate_min", 0.25),
        (" validation.eos_rate_min = 0.25 ", "eos_rate_min", 0.25),
        ("kl_error_max=1e-5", "kl_error_max", 1e-5),
        ("probe_rows=null", "probe_rows", None),
        ("severity.stray_rate=refuse", "severity", {"stray_rate": "refuse"}),
        ("severity.stray_rate=off", "severity", {"stray_rate": "off"}),  # YAML 1.1 reads False
        ("validation.severity.eos_rate=warn", "severity", {"eos_rate": "warn"}),
        ("severity={loop_rate: warn, eos_rate: off}", "severity", {"loop_rate": "warn", "eos_rate": "off"}),
    ],
)
def test_a_changed_limit(change: str, name: str, value: Any) -> None:
    limits = changed_limits(Limits(), [change])
    assert limits.model_dump(exclude_defaults=True) == {name: value}


def test_later_changes_win_and_the_given_limits_stay_as_they_are() -> None:
    given = Limits(eos_rate_min=0.125, severity={"loop_rate": "warn"})
    changes = ["loop_rate_max=0.5", "loop_rate_max=0.25", "severity.eos_rate=warn"]
    found = changed_limits(given, changes)
    assert (found.eos_rate_min, found.loop_rate_max) == (0.125, 0.25)
    assert found.severity == {"loop_rate": "warn", "eos_rate": "warn"}
    assert given.severity == {"loop_rate": "warn"}
    assert changed_limits(given, []) == given


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("eos_rate_min", "write it as name=value; limits: kl_error_max, "),
        ("=3", "write it as name=value"),
        ("sampling.n=3", "write it as name=value"),
        ("eos_rate_min=", "eos_rate_min=None"),
        ("eos_rate_min=2", "less than or equal to 1"),
        ("eos_rate_min=.nan", "eos_rate_min=nan"),
        ("eos_rate_min={", "is no value"),
        ("eos_rate_min=2026-13-01", "is no value"),
        ("eos_rate_min=" + "[" * 5000, "is no value"),
        ("severity.eos_rate=on", "'refuse', 'warn' or 'off'"),
        ("severity=3", "severity=3"),
        ("severity.nothing=warn", "severity.nothing: there is no such check; there are: has_id, "),
        ("severity={3: warn}", "severity.3: there is no such check"),
    ],
)
def test_an_invalid_change(change: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        changed_limits(Limits(), [change])
    assert text in str(error.value)
    assert str(error.value).startswith("--set ")
    assert len(str(error.value)) < 1000


def dataset(folder: Path, **limits: Any) -> Path:
    """Write twelve rows, four of which were cut at max_tokens, made with limits."""
    folder.mkdir(exist_ok=True)
    written(folder, to_table([*made_rows(4, finish_reason="length"), *made_rows(12)[4:]]), row_group_size=3)
    config = make_config(folder, validation=limits).model_dump(mode="json")
    (folder / "manifest.json").write_text(json.dumps({"config": config}))
    return folder


def test_the_limits_it_was_made_with_or_others(tmp_path: Path) -> None:
    opened = open_dataset(dataset(tmp_path / "d", eos_rate_min=0.7))
    files = {path: path.read_bytes() for path in opened.path.rglob("*") if path.is_file()}
    verdict = judge_again(opened)
    (refusal,) = verdict.refusals
    assert "(eos_rate): limit ≥ 0.7, value 0.666667" in refusal
    assert judge_again(opened, changed_limits(opened.limits, ["eos_rate_min=0.6"])).passed
    assert judge_again(opened, changed_limits(opened.limits, ["severity.eos_rate=off"])).passed
    assert {path: path.read_bytes() for path in opened.path.rglob("*") if path.is_file()} == files


def test_a_file_that_is_damaged_past_its_schema(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "d")
    (path,) = folder.glob("*.parquet")
    group = pq.read_metadata(path).row_group(2)
    data = bytearray(path.read_bytes())
    start = group.column(0).dictionary_page_offset or group.column(0).data_page_offset
    data[start : start + 200] = b"\xff" * 200
    path.write_bytes(data)
    with pytest.raises(SourceError, match="cannot be read to its end"):
        judge_again(open_dataset(folder))
