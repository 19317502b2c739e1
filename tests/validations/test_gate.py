"""The gate on a dataset that passes, and on one for each check that fails it alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.validations.tables import changed, facts, made_row, made_rows, to_table, written
from validations import gate as gate_module
from validations.gate import Limits, Verdict, judge, judge_metrics
from validations.measure.metadata import DatasetMetadata, Quarantine
from validations.suites import check_names, checks, probe_checks

NUM_ROWS = 24
Row = dict[str, Any]
Change = Callable[[Row], None]


def verdict_on(
    folder: Path, rows: list[Row], limits: Limits | None = None, known: DatasetMetadata | None = None
) -> Verdict:
    return judge(written(folder, to_table(rows)), limits or Limits(), known or facts())


def failed(verdict: Verdict) -> dict[str, Any]:
    return {check.name: check for check in verdict.checks if check.outcome == "failed"}


def put(**values: Any) -> Change:
    """Replace columns."""
    return lambda row: row.update(values)


def put_token(index: int, **values: Any) -> Change:
    """Replace values of one token."""

    def change(row: Row) -> None:
        for name, value in values.items():
            row[name][index] = value

    return change


def recounted(change: Change) -> Change:
    """Return the change with the row's means and counts recomputed after it."""

    def changed_row(row: Row) -> None:
        change(row)
        mixed = [error for error, mode in zip(row["kl_error"], row["mode"], strict=True) if mode == "mixed"]
        row["max_kl_error"] = max(mixed, default=None)
        row["mean_kl_error"] = float(np.mean(mixed)) if mixed else None
        for name in list(row):
            if name.startswith("mean_") and name != "mean_kl_error":
                row[name] = float(np.mean(row[name.removeprefix("mean_")], dtype=np.float64))
        for mode in ("mixed", "forced", "fallback"):
            row[f"num_{mode}"] = row["mode"].count(mode)

    return changed_row


def spelt(text: str, reason: str = "eos") -> Change:
    """Replace the completion with its token ids and numbers."""
    return lambda row: row.update({**made_row(999, text=text, finish_reason=reason), **_identity(row, text)})  # type: ignore[arg-type]


def _identity(row: Row, text: str) -> Row:
    kept = {name: row[name] for name in ("id", "sample_idx", "theta_prompt", "teacher_prompt", "example")}
    return {**kept, "messages": [row["messages"][0], {"role": "assistant", "content": text}]}


def exclaim(row: Row) -> None:
    """Change the completion and the conversation, but not the ids."""
    row["completion"] += "!"
    row["messages"][-1]["content"] += "!"


def ask_otherwise(row: Row) -> None:
    """Change the question in theta's prompt and the conversation."""
    for holder, name in ((row, "theta_prompt"), (row["messages"][0], "content")):
        holder[name] = holder[name].replace("What is", "Whatever is")


def fall_back(row: Row) -> None:
    """Let every token but the first fall back to the teacher, with consistent numbers."""
    for name, values in {"mode": "fallback", "alpha": 1.0}.items():
        row[name][1:] = [values] * (row["num_tokens"] - 1)
    row["log_z"][1:] = [0.0] * (row["num_tokens"] - 1)
    row["logprob_q"] = [*row["logprob_q"][:1], *row["logprob_teacher"][1:]]


def guess(row: Row) -> None:
    """Set an unknown mode, with consistent numbers."""
    put_token(3, mode="guessed", alpha=1.0, log_z=0.0, logprob_q=row["logprob_teacher"][3])(row)


def know_better(row: Row) -> None:
    """Let the teacher expect every mixed token by 8.9 nats more than theta, with consistent numbers."""
    values = {"alpha": 0.5, "logprob_theta": -9.0, "logprob_teacher": -0.1, "log_z": -4.0, "logprob_q": -0.55}
    for name, value in values.items():
        row[name][1:] = [value] * (row["num_tokens"] - 1)


def copy(row: Row) -> None:
    """Let the completion be 16 words of the solution."""
    words = " ".join(f"word{i}" for i in range(16))
    row["example"]["solution"] = f"At first {words.upper()}, and so on"
    spelt(words)(row)


# Check → a change that fails it, the rows changed, and a part of the refusal.
BREAKS: dict[str, tuple[Change, range, str]] = {
    "has_id": (put(id=""), range(1), "limit True, value False (row , sample 0) in 1 of 24 rows"),
    "num_duplicates": (put(id=f"{3:032x}"), range(1), "limit ≤ 0, value 1"),
    "theta_not_empty": (put(theta_prompt=" \n"), range(1), "False (row 0000"),
    "teacher_not_empty": (put(teacher_prompt=""), range(1), "False (row 0000"),
    "theta_one_bos": (lambda row: row.update(theta_prompt="<s>" + row["theta_prompt"]), range(2), "in 2 of 24"),
    "teacher_one_bos": (lambda row: row.update(teacher_prompt="<s>" + row["teacher_prompt"]), range(2), "in 2 of 24"),
    "question_rate": (
        ask_otherwise,
        range(3),
        "limit ≥ 1, value 0.875",
    ),
    "leak_rate": (
        lambda row: row.update(theta_prompt=row["theta_prompt"].replace("?", f"? {row['example']['final_answer']}")),
        range(6),
        "limit ≤ 0, value 0.25",
    ),
    "reference_rate": (
        lambda row: row.update(teacher_prompt=row["theta_prompt"]), range(12), "limit ≥ 1, value 0.5"
    ),
    "messages_agree": (lambda row: row.update(messages=made_row(7)["messages"]), range(2), "in 2 of 24 rows"),
    "num_rows": (lambda row: None, range(0), "limit ≥ 1, value 0"),
    "finish_reason": (put(finish_reason="tired"), range(1), "eos or stop or length, value 'tired' (row 0000"),
    "decodes": (exclaim, range(1), "value False (row 0000"),
    "ends_right": (put(finish_reason="stop"), range(1), "value False (row 0000"),
    "empty_rate": (spelt(""), range(1), "limit ≤ 0.01, value 0.0416667"),
    "eos_rate": (spelt("cut", "length"), range(13), "limit ≥ 0.5, value 0.458333"),
    "loop_rate": (spelt("ha" * 40), range(2), "limit ≤ 0.05, value 0.0833333"),
    "garbled_rate": (spelt("a\x07bc"), range(1), "limit ≤ 0.01, value 0.0416667"),
    "correct_rate": (spelt("#### 7"), range(6), "limit ≥ 0.9, value 0.75"),
    "lists_align": (lambda row: row["alpha"].pop(), range(1), "in 1 of 24 rows"),
    "is_finite": (recounted(put_token(3, entropy=math.nan)), range(1), "in 1 of 24 rows"),
    "mode_is_known": (recounted(guess), range(1), "in 1 of 24 rows"),
    "figures_follow": (put(mean_js=0.69), range(4), "in 4 of 24 rows"),
    "max_kl_error": (
        recounted(put_token(5, kl_error=3e-5, kl_theta=1.00003, kl_teacher=1.0)), range(1), "≤ 1e-06, value 3e-05 in 1"
    ),
    "kl_error_is_the_kls_distance": (recounted(put_token(3, kl_theta=9.0)), range(1), "in 1 of 24 rows"),
    "kls_not_negative": (recounted(put_token(3, kl_theta=-0.5, kl_teacher=-0.5)), range(1), "in 1 of 24 rows"),
    "alpha_in_range": (
        recounted(put_token(3, alpha=-0.25, logprob_theta=-1.0, logprob_teacher=-1.0, log_z=0.0, logprob_q=-1.0)),
        range(1),
        "in 1 of 24 rows",
    ),
    "alpha_is_one_unless_mixed": (
        recounted(put_token(0, alpha=0.5, logprob_theta=-1.0, logprob_teacher=-1.0, log_z=0.0, logprob_q=-1.0)),
        range(1),
        "in 1 of 24 rows",
    ),
    "js_in_range": (recounted(put_token(3, js=0.7)), range(1), "in 1 of 24 rows"),
    "overlap_in_range": (recounted(put_token(3, overlap_mass=1.5)), range(1), "in 1 of 24 rows"),
    "logprobs_not_positive": (
        recounted(put_token(3, logprob_theta=0.5, logprob_teacher=0.5, log_z=0.0, logprob_q=0.5)), range(1), "in 1 of"
    ),
    "q_is_consistent": (recounted(put_token(3, logprob_q=-20.0)), range(1), "in 1 of 24 rows"),
    "ess_ratio_in_range": (recounted(put_token(3, ess_ratio=-1.0)), range(1), "in 1 of 24 rows"),
    "entropy_in_range": (recounted(put_token(3, entropy=9.0)), range(1), "in 1 of 24 rows"),
    "fallback_rate": (recounted(fall_back), range(16), "limit ≤ 0.5, value 0.6"),
}  # fmt: skip
NAMES_A_ROW = ("question_rate", "leak_rate", "reference_rate", "empty_rate", "loop_rate", "garbled_rate")
WARNINGS: dict[str, tuple[Change, range, str]] = {
    "length_rate": (spelt("cut", "length"), range(9), "limit ≤ 0.3, value 0.375"),
    "duplicate_rate": (
        lambda row: row.update({**made_row(5), "id": row["id"]}), range(3), "limit ≤ 0.05, value 0.125"
    ),
    "stray_rate": (spelt("这是一个完全不同的语言写成的答案"), range(2), "limit ≤ 0.05, value 0.0833333"),
    "privilege_rate": (spelt("According to the HINT it is 7."), range(1), "value 0.0416667: completions speak of what"
                       f" the teacher alone was shown (first: row {0:032x}, sample 0)"),
    "copy_rate": (copy, range(2), f"value 0.0833333: completions copy the reference's words (first: row {0:032x}"),
    "uncertainty_rate": (lambda row: None, range(0), "limit ≥ 0.01, value 0:"),
    "gap_rate": (recounted(know_better), range(12), "limit ≤ 0.25, value 0."),
}  # fmt: skip


def test_a_good_dataset_passes_with_its_figures(tmp_path: Path) -> None:
    rows = changed(made_rows(NUM_ROWS), spelt("cut", "length"), 5)
    verdict = verdict_on(tmp_path, rows)
    assert verdict.passed, verdict.refusals
    assert verdict.warnings == ()
    outcomes = {check.name: check.outcome for check in verdict.checks}
    assert [name for name, outcome in outcomes.items() if outcome != "passed"] == ["fallback_rate_at_position"]
    num_tokens = sum(row["num_tokens"] for row in rows)
    means = {
        f"mean_{name}": np.mean(np.concatenate([row[name] for row in rows]), dtype=np.float64)
        for name in ("alpha", "js", "overlap_mass", "entropy", "logprob_q", "logprob_teacher", "logprob_theta")
    }
    gaps = [np.subtract(row["logprob_teacher"], row["logprob_theta"])[1:] for row in rows]  # the first is forced
    metrics = dict(verdict.metrics)
    assert metrics.pop("fallback_rate_at_position") is None  # no range of positions holds 100 tokens
    assert metrics == pytest.approx(
        {
            "num_rows": NUM_ROWS,
            "num_tokens": num_tokens,
            "num_duplicates": 0,
            "mean_num_tokens": num_tokens / NUM_ROWS,
            "eos_rate": 23 / 24,
            "length_rate": 1 / 24,
            "mixed_rate": 1 - 24 / num_tokens,
            "forced_rate": 24 / num_tokens,
            "fallback_rate": 0,
            "kl_error_max": max(row["max_kl_error"] for row in rows),
            **means,
            "empty_rate": 0,
            "loop_rate": 0,
            "garbled_rate": 0,
            "stray_rate": 0,
            "duplicate_rate": 0,
            "privilege_rate": 0,
            "copy_rate": 0,
            "mean_copied_words": 0,
            "uncertainty_rate": 0,
            "gap_rate": np.mean(np.concatenate(gaps) > 5),
            "quarantine_rate": 0,
            "num_graded": 24,
            "num_ungraded": 0,
            "correct_rate": 23 / 24,
            "question_rate": 1,
            "reference_rate": 1,
            "leak_rate": 0,
        },
        rel=1e-6,
    )
    json.dumps([verdict.metrics, verdict.results, asdict(verdict.aggregates)], allow_nan=False)
    assert {name: result["success"] for name, result in verdict.results.items()} == dict.fromkeys(
        ("prompts", "completions", "tokens"), True
    )


@pytest.mark.parametrize("name", BREAKS)
def test_each_check_is_broken_alone(tmp_path: Path, name: str) -> None:
    change, indices, message = BREAKS[name]
    rows = [] if name == "num_rows" else changed(made_rows(NUM_ROWS), change, *indices)
    # Rows that do not end are cut rows; a limit on right answers is the user's own.
    limits = {"eos_rate": {"length_rate_max": 1.0}, "correct_rate": {"correct_rate_min": 0.9}}.get(name, {})
    verdict = verdict_on(tmp_path, rows, Limits.model_validate(limits))
    assert list(failed(verdict)) == [name]
    assert not verdict.passed
    (refusal,) = verdict.refusals
    assert f"({name}): limit " in refusal
    assert message in refusal
    assert failed(verdict)[name].meaning in refusal
    if name in NAMES_A_ROW:
        assert f"first: row {0:032x}, sample 0" in refusal
    json.dumps([verdict.metrics, verdict.results], allow_nan=False)


@pytest.mark.parametrize("name", WARNINGS)
def test_some_checks_only_warn(tmp_path: Path, name: str) -> None:
    change, indices, message = WARNINGS[name]
    limits = Limits(uncertainty_rate_min=0.01 if name == "uncertainty_rate" else 0.0)
    verdict = verdict_on(tmp_path, changed(made_rows(NUM_ROWS), change, *indices), limits)
    assert list(failed(verdict)) == [name]
    assert verdict.passed
    (warning,) = verdict.warnings
    assert message in warning


def test_severity_turns_a_warning_into_a_refusal_or_off(tmp_path: Path) -> None:
    rows = changed(made_rows(NUM_ROWS), WARNINGS["stray_rate"][0], *range(2))
    assert len(verdict_on(tmp_path, rows, Limits(severity={"stray_rate": "refuse"})).refusals) == 1
    off = verdict_on(tmp_path, rows, Limits(severity={"stray_rate": "off"}))
    assert (off.passed, off.warnings) == (True, ())


@pytest.mark.parametrize(
    ("reasons", "num_planned", "num_samples", "rate"),
    [
        ({}, 24, 1, 0.0),
        ({"null_field": 2}, 24, 1, 2 / 26),
        ({"null_field": 2}, 12, 2, 2 / 14),  # each of two rows lacks its two completions
        ({"prompt_too_long": 1, "null_field": 1}, 25, 1, 2 / 26),  # one row planned, not sampled; one not planned
    ],
)
def test_too_many_rows_in_quarantine_are_refused_with_their_reasons(
    tmp_path: Path, reasons: dict[str, int], num_planned: int, num_samples: int, rate: float
) -> None:
    rows = [made_row(i // num_samples, i % num_samples) for i in range(NUM_ROWS)]
    verdict = verdict_on(tmp_path, rows, known=facts(quarantine=Quarantine(reasons, num_planned, num_samples)))
    assert verdict.metrics["quarantine_rate"] == pytest.approx(rate)
    assert list(failed(verdict)) == (["quarantine_rate"] if reasons else [])
    if reasons:
        assert f"limit ≤ 0.01, value {rate:.6g}" in verdict.refusals[0]
        assert ", ".join(f"{reason} {num}" for reason, num in reasons.items()) in verdict.refusals[0]


def test_ones_own_phrases_replace_the_known_ones(tmp_path: Path) -> None:
    rows = changed(made_rows(NUM_ROWS), spelt("the crib says so"), 0)
    changed(rows, spelt("the hint says so"), 1)
    for phrases, num in ((None, 1), (["the crib says", "the hint"], 2)):
        verdict = verdict_on(tmp_path, rows, Limits(privilege_phrases=phrases))  # type: ignore[arg-type]
        assert verdict.metrics["privilege_rate"] == num / NUM_ROWS


def test_fallback_at_one_position_warns(tmp_path: Path) -> None:
    """In 120 rows the second token alone falls back: few of all tokens, all of that position's."""

    def second_falls_back(row: Row) -> None:
        put_token(1, mode="fallback", alpha=1.0, log_z=0.0, logprob_q=row["logprob_teacher"][1])(row)

    verdict = verdict_on(tmp_path, changed(made_rows(120), recounted(second_falls_back), *range(120)))
    assert list(failed(verdict)) == ["fallback_rate_at_position"]
    assert verdict.metrics["fallback_rate_at_position"] == 1.0
    assert verdict.passed


def test_every_check_has_a_dataset_that_breaks_it() -> None:
    # A completion of no token breaks `empty_rate` too; it has a test of its own.
    covered = {*BREAKS, *WARNINGS, "fallback_rate_at_position", "num_tokens", "quarantine_rate"}
    assert covered == set(check_names())


def test_a_completion_without_tokens(tmp_path: Path) -> None:
    empty: Row = {name: [] for name, value in made_row(0).items() if isinstance(value, list) and name != "messages"}
    scalars = {name: None for name in made_row(0) if name.startswith(("mean_", "max_"))}
    counts = {"num_tokens": 0, "num_mixed": 0, "num_forced": 0, "num_fallback": 0, "completion": ""}
    verdict = verdict_on(tmp_path, changed(made_rows(NUM_ROWS), put(**empty, **scalars, **counts), 0))
    assert {"num_tokens", "empty_rate"} <= set(failed(verdict))


def test_what_is_not_known_is_not_judged(tmp_path: Path) -> None:
    """A dataset made elsewhere, without tokenizer and prompts."""
    table = to_table(made_rows(NUM_ROWS)).drop_columns(["theta_prompt", "teacher_prompt", "messages", "example"])
    verdict = judge(written(tmp_path, table), Limits(), DatasetMetadata(unknown="nobody knows"))
    assert verdict.passed
    unjudged = {check.name: check.why for check in verdict.checks if check.outcome == "not judged"}
    assert unjudged["decodes"] == "nobody knows"
    assert set(unjudged) == {
        "messages_agree",
        *("theta_not_empty", "teacher_not_empty", "theta_one_bos", "teacher_one_bos", "question_rate", "leak_rate"),
        *("reference_rate", "decodes", "ends_right", "correct_rate", "duplicate_rate", "stray_rate"),
        *("fallback_rate_at_position", "quarantine_rate", "privilege_rate", "copy_rate"),
    }
    assert verdict.aggregates.samples[0].pieces[0].startswith("⟨")


def test_a_null_in_every_column_is_refused(tmp_path: Path) -> None:
    rows = made_rows(len(made_row(0)))
    for row, name in zip(rows, made_row(0), strict=True):
        row[name] = None
    verdict = verdict_on(tmp_path, rows)
    assert {"has_id", "lists_align", "figures_follow"} <= set(failed(verdict))


@pytest.mark.slow
def test_nulls_are_refused_and_crash_nothing(tmp_path: Path) -> None:
    for name in made_row(0):
        verdict = verdict_on(tmp_path, changed(made_rows(NUM_ROWS), put(**{name: None}), 3))
        harmless = ("num_theta_prompt_tokens", "num_teacher_prompt_tokens")
        assert verdict.passed == (name in harmless), name


def test_the_kl_error_counts_under_kl_symmetry_alone(tmp_path: Path) -> None:
    rows = changed(made_rows(NUM_ROWS), BREAKS["max_kl_error"][0], 0)
    verdict = verdict_on(tmp_path, rows, known=facts(kl_symmetric=False))
    assert verdict.passed
    assert verdict.metrics["kl_error_max"] == pytest.approx(3e-5)


def test_a_token_that_theta_cannot_say_is_no_defect(tmp_path: Path) -> None:
    """A forced token may be impossible under theta: log π_θ = −inf and KL = inf are then right."""
    change = recounted(put_token(0, logprob_theta=-math.inf, kl_theta=math.inf, kl_error=math.inf))
    verdict = verdict_on(tmp_path, changed(made_rows(NUM_ROWS), change, 0))
    assert verdict.passed, verdict.refusals
    assert verdict.metrics["mean_logprob_theta"] is None


def test_batches_across_files_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven files in row groups of two, judged five rows at a time: failures in two batches are one result."""
    monkeypatch.setattr(gate_module, "JUDGED_ROWS", 5)
    rows = made_rows(42)
    change = BREAKS["max_kl_error"][0]
    changed(rows, change, 2, 39)
    changed(rows, put(id=f"{2:032x}"), 41)
    tables = [to_table(rows[i : i + 6]) for i in range(0, 42, 6)]
    verdict = judge(written(tmp_path, *tables, row_group_size=2), Limits(), facts())
    assert sorted(failed(verdict)) == ["max_kl_error", "num_duplicates"]
    assert failed(verdict)["max_kl_error"].num_outside == 2
    together = judge(written(tmp_path, to_table(rows)), Limits(), facts())
    assert verdict.metrics == pytest.approx(together.metrics)
    for name, values in asdict(verdict.aggregates.by_position).items():
        assert values == pytest.approx(getattr(together.aggregates.by_position, name)), name
    assert [row.id for row in verdict.aggregates.samples] == [row.id for row in together.aggregates.samples]
    one, other = (judged.results["tokens"]["results"] for judged in (verdict, together))
    assert [result["result"]["unexpected_count"] for result in one] == [
        result["result"]["unexpected_count"] for result in other
    ]


def test_two_samples_of_one_row_are_no_duplicates(tmp_path: Path) -> None:
    rows = [made_row(i // 2, i % 2) for i in range(NUM_ROWS)]
    assert verdict_on(tmp_path, rows).passed


def test_a_probe_finds_what_is_hopeless() -> None:
    asked = probe_checks(Limits())
    assert judge_metrics({"fallback_rate": 0.999, "eos_rate": 0.001}, asked) == ()
    no_hope = judge_metrics({"fallback_rate": 1.0, "eos_rate": 0.0}, asked)
    assert [line.partition(":")[2].split(",")[0] for line in no_hope] == [" limit < 1", " limit > 0"]
    assert probe_checks(Limits(fallback_rate_max=1.0, eos_rate_min=0.0)) == []
    assert probe_checks(Limits(severity={"fallback_rate": "warn", "eos_rate": "off"})) == []


def test_severities_reach_great_expectations() -> None:
    found = {check.name: check.expectation() for check in checks(Limits(), kl_symmetric=True)}
    assert {name for name, expectation in found.items() if expectation.severity.value == "warning"} == {
        *WARNINGS, "fallback_rate_at_position",
    }  # fmt: skip


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    verdict_on(tmp_path, made_rows(NUM_ROWS))
    assert capfd.readouterr() == ("", "")
