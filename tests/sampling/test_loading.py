"""Tests of the pair loader."""

from __future__ import annotations

from pathlib import Path

from sampling import ModelConfig
from sampling.loading import is_one_model


def test_is_one_model(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    teacher, theta = (ModelConfig(model=str(path)) for path in tiny_pair)
    link = tmp_path / "link"
    link.symlink_to(tiny_pair[0])
    assert is_one_model(teacher, teacher)
    assert is_one_model(ModelConfig(model=str(link), max_model_len=64), teacher)
    assert not is_one_model(theta, teacher)
    assert not is_one_model(ModelConfig(model=str(tiny_pair[0]), dtype="bfloat16"), teacher)
    adapted, otherwise = (teacher.model_copy(update={"lora": name}) for name in ("one", "other"))
    assert is_one_model(adapted, teacher)
    assert is_one_model(adapted, adapted)
    assert not is_one_model(adapted, otherwise)
