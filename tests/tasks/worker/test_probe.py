"""Tests of the probe: one check, which stops a hopeless run and no other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sampling.errors import RefusedError
from sampling.results import FALLBACK, FORCED, DualOutput, FailedRow
from tasks.run.folder import RunFolder
from tasks.run.parts import PartWriter, read_parts
from tasks.run.progress import Progress
from tasks.worker import probe as probe_module
from tasks.worker.probe import Probe, check_prompts
from tests.tasks.outputs import make_failure, make_output
from tests.tasks.runs import make_config, make_row, make_run, sample
from validations.limits import Limits

IDS = [make_row(i).id for i in range(16)]
LIMITS = Limits(probe_rows=4)


def begun(root: Path) -> RunFolder:
    """Plan a run of four shards of four rows, nothing sampled."""
    return make_run(make_config(root), [make_row(i) for i in range(16)])[0]


def commit(folder: RunFolder, shard: int, results: Sequence[DualOutput | FailedRow], attempt: str = "first") -> None:
    writer = PartWriter(folder.shard(shard).parts, attempt)
    for result in results:
        writer.add(result, {"num_tokens": 5.0})
    writer.close()


def fallen(row: str) -> DualOutput:
    """Return a completion with every token but the forced one from the teacher alone."""
    output = make_output(row)
    output.diagnostics.mode[:] = FALLBACK
    output.diagnostics.mode[0] = FORCED
    return output


def endless(row: str) -> DualOutput:
    return make_output(row, finish_reason="length")


def forced_alone(row: str) -> DualOutput:
    return make_output(row, num_tokens=1)


def test_a_run_that_is_fine_goes_on(tmp_path: Path) -> None:
    """One good completion of four is enough."""
    folder = begun(tmp_path)
    commit(folder, 0, [fallen(IDS[0]), endless(IDS[1]), fallen(IDS[2]), make_output(IDS[3])])
    probe = Probe(folder, LIMITS)
    probe(0, Progress(4, 0))
    commit(folder, 1, [endless(row) for row in IDS[4:8]])  # nothing is checked after the one check
    probe(1, Progress(4, 0))


@pytest.mark.parametrize(("make", "text"), [(fallen, "(fallback_rate): limit < 1, value 1"), (endless, "(eos_rate)")])
def test_a_hopeless_run_is_stopped_at_the_first_check(
    tmp_path: Path, make: Callable[[str], DualOutput], text: str
) -> None:
    folder = begun(tmp_path)
    probe = Probe(folder, LIMITS)
    probe(0, Progress(0, 0))
    commit(folder, 0, [make(row) for row in IDS[:3]])
    probe(0, Progress(3, 0))
    commit(folder, 0, [make(IDS[3])])
    before = sorted(path for path in folder.work.rglob("*") if path.is_file())
    with pytest.raises(RefusedError) as refused:
        probe(0, Progress(4, 0))
    assert text in str(refused.value)
    assert "first 4 completions" in str(refused.value)
    assert str(folder.work) in str(refused.value)
    assert sorted(path for path in folder.work.rglob("*") if path.is_file()) == before  # the work is kept
    assert read_parts(folder.shard(0).parts).keys() == [(row, 0) for row in IDS[:4]]
    with pytest.raises(RefusedError):  # the same command again: the same answer
        Probe(folder, LIMITS)(0, Progress(4, 0))


def test_rows_that_are_not_committed_yet_are_waited_for(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    probe = Probe(folder, LIMITS)
    commit(folder, 0, [fallen(row) for row in IDS[:2]])
    probe(0, Progress(4, 0))  # two of four are committed
    commit(folder, 0, [fallen(row) for row in IDS[2:4]])
    with pytest.raises(RefusedError, match="first 4"):
        probe(0, Progress(4, 0))


def test_shards_smaller_than_the_sample_add_up(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    probe = Probe(folder, Limits(probe_rows=10))
    for shard in (0, 1):
        commit(folder, shard, [endless(row) for row in IDS[4 * shard : 4 * shard + 4]])
        probe(shard, Progress(4, 0))
    commit(folder, 2, [endless(row) for row in IDS[8:10]])
    with pytest.raises(RefusedError, match="first 10 completions"):
        probe(2, Progress(2, 0))


@pytest.mark.parametrize(
    "limits",
    [
        {"probe_rows": None},
        {"fallback_rate_max": 1.0, "eos_rate_min": 0.0},
        {"severity": {"fallback_rate": "warn", "eos_rate": "off"}},
    ],
)
def test_limits_that_let_everything_pass_are_never_probed(
    tmp_path: Path, limits: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begun(tmp_path)
    commit(folder, 0, [replace(fallen(row), finish_reason="length") for row in IDS[:4]])
    monkeypatch.setattr(probe_module, "read_parts", None)  # not even read
    Probe(folder, Limits.model_validate({"probe_rows": 1, **limits}))(0, Progress(4, 0))


def test_one_limit_alone(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    commit(folder, 0, [fallen(row) for row in IDS[:4]])
    Probe(folder, Limits(probe_rows=4, fallback_rate_max=1.0))(0, Progress(4, 0))
    commit(folder, 1, [endless(row) for row in IDS[4:8]])
    Probe(folder, Limits(probe_rows=4, eos_rate_min=0.0))(1, Progress(4, 0))


def test_failed_rows_are_no_completions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do their reports make the probe read the parts again."""
    folder = begun(tmp_path)
    probe = Probe(folder, LIMITS)
    commit(folder, 0, [*(make_failure(row) for row in IDS[:3]), endless(IDS[3])])
    with monkeypatch.context() as patched:
        patched.setattr(probe_module, "read_parts", None)
        probe(0, Progress(4, 3))
    commit(folder, 1, [endless(row) for row in IDS[4:7]])
    with pytest.raises(RefusedError, match="first 4 completions"):
        probe(1, Progress(3, 0))


def test_a_resumed_run_is_checked_with_its_committed_rows(tmp_path: Path) -> None:
    folder, config = begun(tmp_path), make_config(tmp_path)
    sample(folder, config, 0, IDS[:4])  # complete, and fine
    commit(folder, 1, [endless(IDS[4])], "first")
    commit(folder, 1, [endless(IDS[4]), endless(IDS[5])], "second")
    probe = Probe(folder, Limits(probe_rows=6))
    probe(0, Progress(4, 0))
    probe(1, Progress(2, 0))
    hopeless = begun(tmp_path / "other")
    commit(hopeless, 0, [endless(row) for row in IDS[:2]], "first")
    commit(hopeless, 0, [endless(row) for row in IDS[1:4]], "second")  # one of them twice
    with pytest.raises(RefusedError, match="first 4 completions"):
        Probe(hopeless, LIMITS)(0, Progress(4, 0))


def test_completions_of_forced_tokens_alone_have_no_fallback_rate(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    commit(folder, 0, [forced_alone(row) for row in IDS[:4]])
    Probe(folder, LIMITS)(0, Progress(4, 0))


def test_prompts_are_judged_before_anything_is_sampled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A reference in theta's prompt, then a question that is in neither: refused with the first row's name."""
    config = make_config(tmp_path)
    folder, plan = make_run(config, [make_row(i) for i in range(10)])
    check_prompts(folder, plan, config.validation)
    leaky = [replace(make_row(i), theta_prompt=f"What is {i}? #### {i}") for i in range(10)]
    other, plan = make_run(make_config(tmp_path / "b"), leaky)
    with pytest.raises(
        RefusedError, match=rf"leak_rate\): limit ≤ 0, value 1.*first: row {0:032x}\); nothing was sampled"
    ):
        check_prompts(other, plan, config.validation)
    check_prompts(other, plan, Limits(severity={"leak_rate": "warn"}))
    check_prompts(other, plan, Limits(leak_rate_max=1.0))
    assert not caplog.records
    unknown = [
        replace(make_row(i), example=replace(make_row(i).example, answer=None, final_answer=None)) for i in range(3)
    ]
    other, plan = make_run(make_config(tmp_path / "d"), unknown)
    check_prompts(other, plan, config.validation)
    assert "leaks not judged: no reference" in caplog.text
    blind = [replace(make_row(i), theta_prompt="Say something.") for i in range(10)]
    other, plan = make_run(make_config(tmp_path / "c"), blind)
    with pytest.raises(RefusedError, match=r"question_rate\): limit ≥ 1, value 0"):
        check_prompts(other, plan, config.validation)


def test_too_many_quarantined_rows_are_refused_before_anything_is_sampled(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    folder, plan = make_run(config, [make_row(i) for i in range(10)])
    check_prompts(folder, replace(plan, quarantine={"null_field": 1}), Limits(quarantine_rate_max=0.1))
    with pytest.raises(
        RefusedError, match=r"quarantine_rate\): limit ≤ 0.01, value 0.0909.*\(null_field 1\); nothing was"
    ):
        check_prompts(folder, replace(plan, quarantine={"null_field": 1}), Limits())
