"""Tests of the `bench` command, from models to table, JSON and chart."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.cli.bench.bench import bench
from flows.cli.bench.metrics import Measured, Wave
from flows.cli.bench.plan import Job
from flows.demo.demo import MODELS
from sampling.errors import OutputError
from tests.flows.cli.bench.conftest import Arguments
from tests.flows.cli.bench.test_metrics import measured

PNG = b"\x89PNG\r\n\x1a\n"
NAMES = ["teacher alone", "theta alone", "lockstep, balanced", "lockstep, exploratory"]


def check(folder: Path, out: str, names: list[str]) -> dict[str, Any]:
    """Assert one complete block of 4 rows of 8 tokens, its arithmetic, its printed table; return the JSON."""
    results: dict[str, Any] = json.loads((folder / "bench.json").read_text())
    (block,) = results["blocks"]
    assert block["rows"] == 4
    assert [line["name"] for line in block["lines"]] == names
    teacher, theta, *_ = (line["tokens_per_s"] for line in block["lines"])
    bound = 1 / (1 / teacher + 1 / theta)
    assert block["serial_bound"] == pytest.approx(bound)
    for line in block["lines"]:
        assert line["num_tokens"] == 4 * 8
        assert line["tokens_per_s"] == pytest.approx(line["num_tokens"] / line["elapsed_s"])
        assert line["tokens_per_s"] == sorted(line["waves_tokens_per_s"])[1]
        assert line["of_bound"] == pytest.approx(line["tokens_per_s"] / bound)
        assert line["of_teacher"] == pytest.approx(line["tokens_per_s"] / teacher)
        assert line["step_ms"].pop("all") == pytest.approx(1000 * line["elapsed_s"] / 8)
        if line["name"].startswith("lockstep"):
            assert line["num_steps"] == 8  # all four rows start at once and end at their eighth token
            assert list(line["step_ms"]) == ["theta", "teacher", "mixing", "rest"]
            assert sum(line["step_ms"].values()) == pytest.approx(1000 * line["elapsed_s"] / 8)
            assert all(part > 0 for part in line["step_ms"].values())
        else:
            assert line["step_ms"] == {}
        assert line["peak_bytes"] > 100 << 20  # torch alone takes more
        row = next(text for text in out.splitlines() if text.startswith(f"│ {line['name']} "))
        cells = [cell.strip() for cell in row.strip("│").split("│")]
        assert cells[1:4] == [f"{line['tokens_per_s']:,.0f}", f"{line['of_bound']:.2f}", f"{line['of_teacher']:.2f}"]
    assert "…" not in out  # no cell is cut
    assert results["machine"] in out
    assert results["versions"]["torch"] in out
    theta = block["memory"]["models"]["theta"]
    assert theta["weights_bytes"] > 100_000
    assert theta["cache_bytes"] > 4 * theta["row_bytes"] > 0
    assert "\nMemory planned for 4 rows: theta's weights " in out
    assert (folder / "bench.png").read_bytes().startswith(PNG)
    return results


def test_measured_waves_become_table_json_and_chart(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With the measuring process replaced: every mode has 32 tokens in 1, 2 and 4 s."""

    def run(job: Job, log: Path, debug: bool) -> Measured:
        waves = [Wave(elapsed_s=seconds, num_tokens=job.rows * job.max_tokens) for seconds in (1.0, 2.0, 4.0)]
        return measured(*waves)

    monkeypatch.setattr("flows.cli.bench.bench.run", run)
    bench(arguments(rows=[4], dtype="float32"))
    out, err = capfd.readouterr()
    results = json.loads((tmp_path / "bench" / "bench.json").read_text())
    (block,) = results["blocks"]
    assert [line["name"] for line in block["lines"]] == NAMES
    assert {line["tokens_per_s"] for line in block["lines"]} == {16.0}
    assert block["serial_bound"] == 8.0
    assert results["machine"] == "abacus"
    assert results["settings"]["dtype"] == "float32"
    assert "the slowest was at most 75% behind the fastest" in " ".join(out.split())
    assert "Measuring lockstep, exploratory, 4 rows" in err
    assert (tmp_path / "bench" / "bench.png").read_bytes().startswith(PNG)


@pytest.mark.slow
def test_the_demo_models_are_measured_in_every_mode(
    arguments: Arguments, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bench(arguments())
    check(tmp_path / "bench", capfd.readouterr().out, NAMES)


@pytest.mark.slow
def test_a_config_alone_is_enough_for_dummy_weights(
    arguments: Arguments, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("teacher", "theta"):
        (tmp_path / name).mkdir()
        shutil.copy(MODELS / name / "config.json", tmp_path / name)
    folders = {name: str(tmp_path / name) for name in ("teacher", "theta")}
    bench(arguments(**folders, dummy_weights=True, preset="exploratory"))
    out = capfd.readouterr().out
    results = check(tmp_path / "bench", out, ["teacher alone", "theta alone", "lockstep, exploratory"])
    assert results["models"] == folders
    assert "dummy weights" in out


def test_an_output_that_is_not_writable_is_an_input_error(arguments: Arguments, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="give a folder that is writable with --output"):
        bench(arguments(output=str(tmp_path / "file" / "sub")))
