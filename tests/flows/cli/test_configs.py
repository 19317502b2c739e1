"""Tests of the shipped configurations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

import flows
from flows.cli.configuration import load_config
from tasks.config import ModelsConfig, PipelineConfig, PromptConfig, SourceConfig

CONFIGS = Path(flows.__file__).parent / "configs"


@pytest.mark.parametrize("name", ["base", "distillation", "math_qa"])
def test_each_follows_the_schema(name: str) -> None:
    config = load_config(CONFIGS / f"{name}.yaml")
    assert config.prompts.theta is not None
    assert config.prompts.teacher is not None
    assert "answer" in config.prompts.teacher.template
    assert "answer" not in config.prompts.theta.template.replace("final answer within", "")


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted path of every key of the schema."""
    sections: dict[Any, type[BaseModel]] = {PromptConfig | None: PromptConfig}
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        section = sections.get(field.annotation, field.annotation)
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from keys(section, f"{path}.")
        else:
            yield path


def test_base_names_every_key_with_a_reason() -> None:
    lines = (CONFIGS / "base.yaml").read_text().splitlines()
    values = yaml.safe_load("\n".join(lines))
    for path in keys(PipelineConfig):
        section = values
        for part in path.split("."):
            assert part in section, path
            section = section[part]
        # The second model repeats the keys that the first one explains; a template's comment is above it.
        assert any(line.lstrip().startswith(f"{part}:") and "#" in line for line in lines) or part == "template"


def test_base_shows_the_defaults() -> None:
    """Every section except source and models holds the schema's defaults."""
    base = load_config(CONFIGS / "base.yaml")
    smallest = {
        "name": base.name,
        "source": {"path": "x"},
        "models": {"teacher": {"model": "a"}, "theta": {"model": "b"}},
    }
    defaults = PipelineConfig.model_validate(smallest)
    for section in ("mixture", "sampling", "engine", "shards", "validation", "publish"):
        assert getattr(base, section) == getattr(defaults, section), section
    assert base.source == SourceConfig(hub="openai/gsm8k", subset="main")
    models = {"teacher": {"model": "Qwen/Qwen3-14B"}, "theta": {"model": "Qwen/Qwen3-4B-Base"}}
    assert base.models == ModelsConfig.model_validate(models)


def test_the_deployments_entrypoints_exist() -> None:
    """`prefect deploy` reports a wrong entrypoint only when a run starts."""
    root = CONFIGS.parent.parent
    for deployment in yaml.safe_load((root / "prefect.yaml").read_text())["deployments"]:
        file, _, function = deployment["entrypoint"].partition(":")
        assert f"\ndef {function}(" in (root / file).read_text()
