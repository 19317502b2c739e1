"""Limits of the gate, by preset and by configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.cli.configuration import load_config
from sampling.errors import ConfigurationError
from tasks.config import PipelineConfig
from validations.limits import LIMIT_PRESETS, Limits

SMALL = "name: a\nsource: {path: x}\nmodels: {teacher: {model: a}, theta: {model: b}}\n"


def load(folder: Path, text: str) -> PipelineConfig:
    path = folder / "c.yaml"
    path.write_text(SMALL + text)
    return load_config(path, [])


@pytest.mark.parametrize("preset", list(LIMIT_PRESETS))
def test_the_preset_fills_what_is_left_out(tmp_path: Path, preset: str) -> None:
    text = f"mixture: {{preset: {preset}}}\n"
    assert load(tmp_path, text).validation == Limits(**LIMIT_PRESETS[preset])
    given = load(tmp_path, text + "validation: {eos_rate_min: 0.33}\n").validation
    assert given == Limits(**{**LIMIT_PRESETS[preset], "eos_rate_min": 0.33})


def test_conservative_is_stricter_and_exploratory_laxer() -> None:
    presets = [Limits(**LIMIT_PRESETS[name]) for name in ("conservative", "balanced", "exploratory")]
    for name in Limits.model_fields:
        values = [getattr(limits, name) for limits in presets]
        if name.endswith("_max"):
            assert values == sorted(values), name
        elif name.endswith("_min"):
            assert values == sorted(values, reverse=True), name


def test_a_written_out_configuration_is_read_back_as_it_was(tmp_path: Path) -> None:
    """The manifest holds the limits that were used, whatever a later version's presets say."""
    config = load(tmp_path, "mixture: {preset: conservative}\nvalidation: {loop_rate_max: 0.5}\n")
    assert PipelineConfig.model_validate(config.model_dump(mode="json")) == config


def test_off_is_a_word_in_yaml(tmp_path: Path) -> None:
    config = load(tmp_path, "validation: {severity: {duplicate_rate: off, stray_rate: refuse}}\n")
    assert config.validation.severity == {"duplicate_rate": "off", "stray_rate": "refuse"}


def test_a_check_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"validation.severity names 'stray', which is no check; there are: .*stray_rate"
    ):
        load(tmp_path, "validation: {severity: {stray: off}}\n")
    with pytest.raises(ConfigurationError, match=r"severity.stray_rate: 'never' is not allowed"):
        load(tmp_path, "validation: {severity: {stray_rate: never}}\n")
