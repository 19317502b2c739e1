"""Tokenizers, and the check that two models share a vocabulary."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest

from sampling import ModelConfig
from sampling.errors import ConfigurationError, ModelError, VocabularyMismatchError
from sampling.models.vocabulary import check_stop_ids, check_vocabularies, load_tokenizer
from tests.tiny import byte_tokenizer


def test_one_tokenizer_shares_all_its_ids() -> None:
    assert check_vocabularies(byte_tokenizer(), byte_tokenizer()) == 257


def test_ids_past_the_shorter_vocabulary_are_left_out() -> None:
    longer = byte_tokenizer()
    longer.add_tokens(["<tool>", "<think>"])
    assert check_vocabularies(byte_tokenizer(), longer) == 257
    assert check_vocabularies(longer, byte_tokenizer()) == 257


def test_disagreement_names_the_first_differing_ids() -> None:
    with pytest.raises(VocabularyMismatchError, match=r"id 256 is '<tool>' in theta, '<\|endoftext\|>' in the teacher"):
        check_vocabularies(byte_tokenizer(("<tool>",)), byte_tokenizer())


def test_a_folder_without_tokenizer_files_is_an_error(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    """For some architectures transformers falls back to a tokenizer of its special tokens alone."""
    config = json.loads((tiny_pair[0] / "config.json").read_text()) | {"model_type": "qwen2"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"no tokenizer that knows a word; fetch its tokenizer\.json"):
        load_tokenizer(ModelConfig(model=str(tmp_path)))


def test_stop_ids_outside_the_vocabulary_are_refused() -> None:
    check_stop_ids((0, 256), 257)
    with pytest.raises(ConfigurationError, match=r"stop_token_ids \[-1, 257\] are no ids .* \(0 to 256\)"):
        check_stop_ids((-1, 3, 257), 257)


def test_a_folder_without_model_or_tokenizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_tokenizer(ModelConfig(model=str(tmp_path)))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError):
        load_tokenizer(ModelConfig(model=str(tmp_path)))
    with pytest.raises(ModelError, match="neither a folder here nor to be had from the Hub"):
        load_tokenizer(ModelConfig(model="nobody/no-such-model"))
    with pytest.raises(ModelError, match="no model folder"):
        load_tokenizer(ModelConfig(model="/no/such/folder/here"))


def test_a_normaliser_that_multiplies_text_is_refused(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_pair[0], tmp_path / "model")
    content = json.loads((folder / "tokenizer.json").read_text())
    one = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
    for num_times, is_refused in ((1, False), (9, True)):
        content["normalizer"] = {"type": "Sequence", "normalizers": [one] * num_times}
        (folder / "tokenizer.json").write_text(json.dumps(content))
        with pytest.raises(ModelError, match="1000000000 times as long") if is_refused else nullcontext():
            load_tokenizer(ModelConfig(model=str(folder)))
