"""The local folder of a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sampling import ModelConfig
from sampling.errors import ModelError
from sampling.models import eos_ids, load_config, weights_bytes


def test_facts_of_a_folder(tiny_pair: tuple[Path, Path]) -> None:
    model = ModelConfig(model=str(tiny_pair[0]))
    assert eos_ids(model) == {256}
    assert load_config(model).num_hidden_layers == 2
    assert weights_bytes(model) == (tiny_pair[0] / "model.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": [3, 5]}, 7, {3, 5}),
        ({"eos_token_id": 3}, 7, {3}),
        ({}, 7, {7}),
        (None, 7, {7}),
        (None, None, set()),
    ],
)
def test_eos_ids_come_from_the_generation_config_first(
    generation: dict[str, object] | None,
    config: int | None,
    expected: set[int],
    tiny_pair: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    facts = json.loads((tiny_pair[0] / "config.json").read_text())
    facts["eos_token_id"] = config
    (tmp_path / "config.json").write_text(json.dumps(facts))
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert eos_ids(ModelConfig(model=str(tmp_path))) == expected


def test_a_broken_config_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{not json")
    with pytest.raises(ModelError) as caught:
        load_config(ModelConfig(model=str(tmp_path)))
    assert "\n" not in str(caught.value)
