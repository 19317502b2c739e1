"""Tests of the dataset card: a header that the Hub reads, and escaped text."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from tasks.publish.card import card
from tasks.publish.staging import Staged
from tasks.run.plan import Plan
from tests.tasks.runs import make_config


def make_card(quarantine: dict[str, int], template: str, example: dict[str, str], hub: str | None = None) -> str:
    prompts = {"teacher": {"style": "plain", "template": template}, "theta": {"style": "plain", "template": "t"}}
    config = make_config(Path("published"), prompts=prompts, publish={"hub": hub})
    plan = Plan(12, 3, "gsm8k", ["question"], config.prompts.model_dump(mode="json"), ["rows.jsonl"], quarantine)
    return card(
        config, "v1", plan, Staged([], 12, quarantine, {}, 0), {"num_rows": 12, "mean_alpha": 0.51234567}, example
    )


def test_the_header_names_the_data_files() -> None:
    text = make_card({}, "t", {})
    _, header, body = text.split("---\n", 2)
    values = yaml.safe_load(header)
    (only,) = values["configs"]
    assert only["default"] is True
    assert only["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert re.fullmatch("data-[0-9a-f]{12}", only["config_name"])
    assert values["size_categories"] == ["n<1K"]
    assert "| mean_alpha | 0.512346 |" in body
    assert 'load_dataset("path/of/this/folder", split="train")' in body
    assert "Left out" not in body


def test_on_the_hub_it_loads_from_there_at_its_version() -> None:
    assert 'load_dataset("org/name", revision="v1", split="train")' in make_card({}, "t", {}, hub="org/name")


def test_the_configuration_is_in_it() -> None:
    template = "a ```` b\n```\n# no heading {{ question }}"
    text = make_card({}, template, {})
    fence = "`" * 5
    block = text.split(f"{fence}yaml\n")[1].split(f"\n{fence}")[0]
    assert yaml.safe_load(block)["prompts"]["teacher"]["template"] == template


def test_text_of_the_dataset_cannot_leave_its_block() -> None:
    hostile = "</pre><script>alert(1)</script>\n\n# Heading\x1b[2J ![x](http://e/x.png)"
    text = make_card({"not_json": 2}, "t", {"Drawn": hostile})
    line = next(line for line in text.splitlines() if line.startswith("<pre>"))
    assert line == (
        "<pre>&lt;/pre&gt;&lt;script&gt;alert(1)&lt;/script&gt;&#10;&#10;# Heading\\x1b[2J ![x](http://e/x.png)</pre>"
    )
    assert "| not_json | 2 |" in text


def test_a_long_text_is_cut() -> None:
    assert f"<pre>{'x' * 600}…</pre>" in make_card({}, "t", {"Drawn": "x" * 700})


def test_an_adapter_is_named() -> None:
    models = {"teacher": {"model": "org/teacher"}, "theta": {"model": "org/base", "lora": "org/adapter"}}
    prompts = {"teacher": {"style": "plain", "template": "t"}, "theta": {"style": "plain", "template": "t"}}
    config = make_config(Path("published"), models=models, prompts=prompts)
    plan = Plan(1, 1, "gsm8k", ["question"], config.prompts.model_dump(mode="json"), ["rows.jsonl"], {})
    text = card(config, "v1", plan, Staged([], 1, {}, {}, 0), {}, {})
    assert "`org/base` with the LoRA adapter `org/adapter` (theta) and the teacher `org/teacher`, each" in text
