"""What Prefect's pages show is text, whatever a dataset holds."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from flows.artifacts import show_quality
from tests.flows.commands import artifacts_of

HOSTILE = "value '<script>alert(1)</script> [a](javascript:b) | `c`\n# d'"


def test_hostile_text_is_no_markup(prefect_server: str, tmp_path: Path) -> None:
    check = {
        "suite": "prompts", "name": "has_id", "outcome": "failed", "limit": "True", "value": HOSTILE,
        "meaning": "m", "why": "",
    }  # fmt: skip
    report = {"passed": False, "refusals": [HOSTILE], "warnings": [], "figures": {"num_rows": None}, "checks": [check]}

    @flow
    def shown() -> None:
        show_quality("A b/C <v>", report, tmp_path / "report.html")

    state = shown(return_state=True)
    artifacts = artifacts_of(state)
    assert set(artifacts) == {"a-b-c-v-verdict", "a-b-c-v-figures", "a-b-c-v-checks", "a-b-c-v-report"}
    verdict = artifacts["a-b-c-v-verdict"]
    assert "\\<script\\>" in verdict
    assert "\n# d" not in verdict
    assert "\\[a\\]\\(javascript" in verdict
