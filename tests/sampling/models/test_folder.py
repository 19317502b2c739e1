"""The reader of a model's folder."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sampling import ModelConfig
from sampling.config import DummyModel
from sampling.errors import ModelError
from sampling.models.folder import load_config, model_folder, weights_bytes
from sampling.models.footprint import kv_bytes_per_token
from sampling.models.installed import resolved_dtype
from sampling.models.lora import adapter_of


def test_config_and_bytes_are_read(tiny_pair: tuple[Path, Path]) -> None:
    model = ModelConfig(model=str(tiny_pair[0]))
    assert load_config(model).num_hidden_layers == 2
    file = tiny_pair[0] / "model.safetensors"
    header = int.from_bytes(file.read_bytes()[:8], "little")
    assert weights_bytes(model) == file.stat().st_size - 8 - header
    assert weights_bytes(model, 2) * 2 == weights_bytes(model)
    assert weights_bytes(DummyModel(model=model.model)) == weights_bytes(model)


def test_quantised_weights_keep_their_size(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copy(tiny_pair[0] / "config.json", tmp_path)
    tensors = {"a": torch.zeros(8, dtype=torch.int8), "b": torch.zeros(4, dtype=torch.int32),
               "c": torch.zeros(3, dtype=torch.float8_e4m3fn), "d": torch.zeros(5, dtype=torch.bfloat16)}  # fmt: skip
    save_file(tensors, tmp_path / "model.safetensors")
    model = ModelConfig(model=str(tmp_path))
    assert weights_bytes(model) == 8 + 16 + 3 + 10
    assert weights_bytes(model, 4) == 8 + 16 + 3 + 20


def test_files_beside_an_index_do_not_count(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_pair[0], tmp_path / "model")
    model = ModelConfig(model=str(folder))
    before = weights_bytes(model)
    again = {f"layers.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(again, folder / "consolidated.safetensors")
    assert weights_bytes(model) == 2 * before
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": "model.safetensors"}}))
    assert weights_bytes(model) == before
    index.write_text("[]")
    with pytest.raises(ModelError, match="holds a list, no object"):
        weights_bytes(model)


def test_a_truncated_file_is_named(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_pair[0], tmp_path / "model")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read: .*; fetch it again"):
        weights_bytes(ModelConfig(model=str(folder)))


def test_the_error_of_a_malformed_config_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{not json")
    with pytest.raises(ModelError) as caught:
        load_config(ModelConfig(model=str(tmp_path)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["chat_template.jinja", "tokenizer.json", "model-2.safetensors", "more/a.jinja", "more"]
)
@pytest.mark.parametrize("target", ["file", "folder", "missing", "relative"])
def test_no_file_of_a_model_lies_elsewhere(tmp_path: Path, name: str, target: str) -> None:
    """A chat template that is a link to a private key would show that key in every prompt."""
    (tmp_path / "secret").write_text("PRIVATE KEY")
    place: dict[str, Path | str] = {
        "file": tmp_path / "secret",
        "folder": tmp_path,
        "missing": tmp_path / "later",
        "relative": "../secret",
    }
    (path := tmp_path / "model" / name).parent.mkdir(parents=True)
    (tmp_path / "model" / "config.json").write_text("{}")
    path.symlink_to(place[target] if name != "more/a.jinja" or target != "relative" else "../../secret")
    (tmp_path / "named").symlink_to("model")
    message = rf"{name} is a link to {tmp_path}.*, outside {tmp_path}/.*; copy that file"
    for folder in ("model", "named"):
        with pytest.raises(ModelError, match=message):
            model_folder(ModelConfig(model=str(tmp_path / folder)))
        with pytest.raises(ModelError, match=message):
            adapter_of(ModelConfig(model="any", lora=str(tmp_path / folder)))


def test_a_pipe_is_no_file_of_a_model(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ModelError, match=r"config\.json is no regular file"):
        model_folder(ModelConfig(model=str(tmp_path)))


def test_links_inside_and_those_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    (snapshot := tmp_path / "models--org--name" / "snapshots" / "abcd").mkdir(parents=True)
    (blob := tmp_path / "models--org--name" / "blobs" / "0123").parent.mkdir()
    blob.write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/0123")
    (snapshot / "again.json").symlink_to("config.json")
    (snapshot / "pytorch_model.bin").symlink_to("../../blobs/removed")  # to save room
    (tmp_path / "named").symlink_to(snapshot)
    assert [model_folder(ModelConfig(model=str(path))) for path in (snapshot, tmp_path / "named")]
    blob.unlink()
    blob.symlink_to("/etc/passwd")
    with pytest.raises(ModelError, match=r"(config|again)\.json is a link to /etc/passwd"):
        model_folder(ModelConfig(model=str(snapshot)))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "[" * 100_000),
        ("config.json", "[1]"),
        ("config.json", {"text_config": [1]}),
        ("config.json", {"num_attention_heads": 0, "num_key_value_heads": 0, "head_dim": 0}),
        ("config.json", {"num_hidden_layers": -1}),
        ("config.json", {"vocab_size": 10**30}),
        ("model.safetensors.index.json", "[" * 100_000),
        ("model.safetensors.index.json", "[1]"),
        ("model.safetensors.index.json", {"weight_map": [1]}),
        ("model.safetensors.index.json", {"weight_map": {"a": [1]}}),
    ],
)
def test_a_file_of_another_kind_is_one_line(
    tiny_pair: tuple[Path, Path], tmp_path: Path, name: str, content: Any
) -> None:
    folder = shutil.copytree(tiny_pair[0], tmp_path / "model")
    if isinstance(content, dict):
        content = json.dumps({**(json.loads((folder / name).read_text()) if name == "config.json" else {}), **content})
    (folder / name).write_text(content)
    model = ModelConfig(model=str(folder))
    with pytest.raises(ModelError) as caught:
        [weights_bytes(model), resolved_dtype(model, "cuda"), kv_bytes_per_token(model, "cpu")]
    assert "\n" not in str(caught.value)
