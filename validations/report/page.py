"""HTML report of a verdict on one dataset, or on two side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from validations.measure.aggregates import SampleRow
from validations.report.plots import draw_plots
from validations.report.provenance import Provenance, as_json, mapping, number, plain
from validations.report.visible import visible
from validations.verdict import SUITES, CheckResult, Verdict

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE = Path(__file__).parent / "report.html.jinja"
# With these a page stays under 5 MB even if every character takes five bytes (`&#39;`).
MAX_TOKENS = 5000  # of all sample rows together; 300 bytes each at most
MAX_PIECE_CHARACTERS = 24
MAX_SAMPLES, MAX_ROWS, MAX_CHECKS = 12, 100, 100
KL_ERROR_MAX = 1e-6  # nats; drawn where no check names a limit
MARKS = {"good": "✓", "bad": "✕", "fair": "!", "": "–"}


def render_report(
    title: str, verdict: Verdict, manifest: Mapping[str, Any] | None, quarantined: Sequence[Mapping[str, Any]]
) -> str:
    """Return one HTML file of at most 5 MB that loads nothing else and runs no script.

    `manifest` is a manifest.json, of which any key may be missing or malformed; None where there is none. `quarantined`
    holds the first lines of quarantine.jsonl, of any shape.
    """
    provenance = Provenance(manifest)
    checks = [_check(check, verdict) for check in verdict.checks[:MAX_CHECKS]]
    samples = verdict.aggregates.samples[:MAX_SAMPLES]
    num_left_out = int(sum(number(num) or 0 for _, num in provenance.reasons()))
    page = _template().render(
        title=title,
        comparison=None,
        verdict=_verdict(verdict),
        metrics=list(verdict.metrics.items())[:MAX_ROWS],
        plots=draw_plots({"": verdict.aggregates}, {"": provenance.speeds()}, _kl_error_max(verdict)),
        suites=[(suite, found) for suite in SUITES if (found := [c for c in checks if c["suite"] == suite])],
        slowest=provenance.slowest(),
        worst=[
            [f"{row.id} · {row.sample_idx}", row.metric, row.value, row.num_tokens, row.finish_reason, row.excerpt]
            for row in verdict.aggregates.worst[:MAX_ROWS]
        ],
        gaps=[[gap.piece, gap.num_tokens, gap.mean_gap, gap.share] for gap in verdict.aggregates.gaps[:MAX_ROWS]],
        reasons=provenance.reasons(),
        quarantined=[_quarantined(row) for row in quarantined[:MAX_ROWS]],
        quarantined_count=f"{min(len(quarantined), MAX_ROWS):,} of {max(len(quarantined), num_left_out):,} shown",
        samples=[_sample(row, MAX_TOKENS // len(samples)) for row in samples],
        provenance=list(provenance.pairs()),
        config=provenance.config(),
    )
    return page.encode(errors="replace").decode()


def render_comparison(
    names: tuple[str, str],
    verdicts: tuple[Verdict, Verdict],
    manifests: tuple[Mapping[str, Any] | None, Mapping[str, Any] | None],
) -> str:
    """Return a page like `render_report`'s of two datasets: outcomes, metrics with differences, plots, checks."""
    datasets = {label: verdict.aggregates for label, verdict in zip("AB", verdicts, strict=True)}
    speeds = {label: Provenance(manifest).speeds() for label, manifest in zip("AB", manifests, strict=True)}
    a, b = (verdict.metrics for verdict in verdicts)
    metrics = [[name, a.get(name), b.get(name), _difference(a.get(name), b.get(name))] for name in {**a, **b}]
    sides: list[dict[Any, CheckResult]] = [
        {(check.suite, check.name, check.expectation): check for check in verdict.checks} for verdict in verdicts
    ]
    checks = []
    for key in list({**sides[0], **sides[1]})[:MAX_CHECKS]:
        pair = [side.get(key) for side in sides]
        cells = [check and _check(check, verdict) for check, verdict in zip(pair, verdicts, strict=True)]
        checks.append((key[1], next(check.meaning for check in pair if check), cells))
    page = _template().render(
        title="Two datasets compared",
        comparison={
            "names": names,
            "verdicts": [(name, _verdict(verdict)) for name, verdict in zip(names, verdicts, strict=True)],
            "metrics": metrics[:MAX_ROWS],
            "checks": checks,
        },
        plots=draw_plots(datasets, speeds, _kl_error_max(verdicts[0])),
    )
    return page.encode(errors="replace").decode()


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup, escape

    def finalize(value: Any) -> Any:
        """Escape invisible characters in every value that the template writes, and cut it."""
        return value if isinstance(value, Markup | StrictUndefined) else visible(_text(value))

    environment = Environment(autoescape=True, undefined=StrictUndefined, finalize=finalize, trim_blocks=True)
    environment.filters["visible"] = lambda value, max_characters: escape(visible(_text(value), max_characters))
    environment.filters["markup"] = Markup
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def _verdict(verdict: Verdict) -> dict[str, Any]:
    refusals, warned = verdict.refusals, verdict.warnings
    tone = "bad" if refusals else "fair" if warned else "good"
    failed = [check for check in verdict.checks if check.outcome == "failed"]
    found = {
        name: [_check(check, verdict) for check in failed if check.severity == severity][:MAX_CHECKS]
        for name, severity in (("refusals", "refuse"), ("warnings", "warn"))
    }
    judged = sum(check.outcome != "not judged" for check in verdict.checks)
    warnings = f"{len(warned)} warning{'s' * (len(warned) != 1)}"
    also = f", {warnings}" if warned else ""
    headline = {
        "bad": f"Refused: {len(refusals)} of {judged} checks refuse it{also}",
        "fair": f"Passed with {warnings}, of {judged} checks",
        "good": f"Passed all {judged} checks",
    }[tone]
    if judged < len(verdict.checks):
        headline += f"; {len(verdict.checks) - judged} could not be judged"
    lines = [*refusals, *warned][:MAX_CHECKS]
    return {"tone": tone, "mark": MARKS[tone], "headline": headline, "lines": lines, **found}


def _kl_error_max(verdict: Verdict) -> float:
    """Return the limit in nats that the check used, so that the plot agrees with the table of checks."""
    limits = [check.limit.split()[-1:] for check in verdict.checks if check.name == "max_kl_error"]
    try:
        most = float(limits[0][0])
    except (IndexError, ValueError):
        return KL_ERROR_MAX
    return most if 0 < most < math.inf else KL_ERROR_MAX


def _check(check: CheckResult, verdict: Verdict) -> dict[str, Any]:
    """Return a check's fields with their texts on the page."""
    tone = {"passed": "good", "failed": "bad" if check.severity == "refuse" else "fair"}.get(check.outcome, "")
    outcome = {"bad": "failed, refuses", "fair": "failed, warns"}.get(tone, check.outcome)
    outside = ""
    if check.num_outside:
        outside = f", in {check.num_outside} of {_text(verdict.metrics.get('num_rows'))} rows"
    names = ("name", "suite", "meaning", "limit", "value", "num_outside", "why")
    texts = {"tone": tone, "mark": MARKS[tone], "outcome": outcome, "outside_text": outside}
    return {name: getattr(check, name) for name in names} | texts


def _sample(row: SampleRow, max_tokens: int) -> dict[str, Any]:
    logprobs = row.logprob_q, row.logprob_theta, row.logprob_teacher
    tokens = list(zip(row.pieces, row.mode, row.alpha, row.kl_error, *logprobs, strict=False))
    num_left_out = row.num_left_out + max(len(tokens) - max_tokens, 0)
    judgement = {True: ", right", False: ", wrong", None: ""}[row.is_correct]
    names = ("id", "sample_idx", "why", "theta_prompt", "teacher_prompt", "finish_reason", "reference")
    return {name: getattr(row, name) for name in names} | {
        "judgement": judgement,
        "tokens": [_token(*token) for token in tokens[:max_tokens]],
        "end": f"… and {num_left_out:,} more tokens, not shown." if num_left_out else "End of the completion.",
    }


def _token(
    piece: str, mode: str, alpha: float, kl_error: float, q: float, theta: float, teacher: float
) -> dict[str, Any]:
    text = visible(piece, MAX_PIECE_CHARACTERS)
    if text.strip(" ") == "":
        text = "·" * len(text) or "∅"
    text = text.replace("\n", "⏎\n").replace("\t", "⇥\t")
    is_known = mode in ("mixed", "forced", "fallback")
    tip = (
        f"{mode if is_known else visible(mode, 20)}, α {alpha:.4g}\nKL error {kl_error:.3g}\nlog q*        {_log(q)}\n"
        f"log π_theta   {_log(theta)}\nlog π_teacher {_log(teacher)}"
    )
    weight = f"{min(max(alpha, 0.0), 1.0):.2f}" if mode == "mixed" and math.isfinite(alpha) else None
    return {"text": text, "mode": mode if is_known else "", "tip": tip, "weight": weight}


def _log(value: float) -> str:
    return "−∞" if value == -math.inf else f"{value:.4g}".replace("-", "−")


def _quarantined(row: Any) -> list[str]:
    """Return row, reason and detail; a line of another shape is shown as JSON."""
    known = mapping(row)
    if not {"reason", "detail"} & set(known):
        return ["—", "—", as_json(row)]
    sample = f" · {known['sample_idx']}" if known.get("sample_idx") is not None else ""
    line = f"line {known['row']}" if known.get("row") is not None else ""
    position = " ".join(part for part in (line, f"{known.get('id') or ''}{sample}") if part)
    return [position or "—", _text(plain(known.get("reason"))), _text(plain(known.get("detail")))]


def _difference(a: float | int | None, b: float | int | None) -> str:
    return "—" if a is None or b is None else f"{b - a:+,.6g}"


def _text(value: Any) -> str:
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.6g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
