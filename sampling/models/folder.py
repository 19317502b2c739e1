"""A reader of a model's folder: config, shapes of the weights."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sampling.config import ModelConfig
from sampling.errors import ModelError
from sampling.links import outside
from sampling.permissions import check_code
from sampling.processes.errors import first_line

WEIGHTS = "*.safetensors"
NEEDED = ("*.json", WEIGHTS, "*.jinja", "*.model", "*.txt", "*.py")  # no pickled weights
FLOATS = ("F32", "F16", "BF16")  # types that vLLM may load in another precision than the file's

COUNTS = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
MAX_COUNT = 1 << 40
Weight = tuple[str, tuple[int, ...]]  # safetensors' name of the dtype, shape


def model_folder(model: ModelConfig) -> Path:
    """Return the model's folder: a local one, or the Hub snapshot of its revision, downloaded when missing.

    Raises ModelError when there is no such folder or snapshot, no config.json in it, or a link that leaves it,
    ForbiddenError when it is to bring code and none may run.
    """
    if model.trust_remote_code:
        check_code(f"trust_remote_code of the model {model.model!r}")
    folder = Path(model.model).expanduser()
    if not folder.is_dir():
        # A served model's weights are on its server, a DummyModel needs none.
        needed = [pattern for pattern in NEEDED if pattern != WEIGHTS or (model.has_weights and not model.urls)]
        folder = snapshot(model.model, model.revision, needed)
    check_files(folder)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{model.model} is no model: {folder} holds no config.json; give a model's folder")
    return folder


def snapshot(name: str, revision: str | None, needed: Sequence[str]) -> Path:
    """Return the folder of the Hub's files that match `needed`, downloaded where missing. Raises ModelError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(needed)))
    except HFValidationError as error:
        raise ModelError(f"no model folder {name!r}: give an existing folder or a Hub id org/name") from error
    except Exception as error:  # a dozen classes, offline or not; each means that there is no model
        raise ModelError(
            f"model {name!r} is neither a folder here nor to be had from the Hub"
            f" ({type(error).__name__}); check the name, or download it first"
        ) from error


def check_files(folder: Path) -> None:
    """Raise ModelError for a link that leads out of a model's folder, and for what is no regular file.

    Whoever made the folder could show a model, thus the dataset, this user's files. Hidden folders are not read.
    """
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in [*folders, *files]):
            if path.is_symlink() and (target := outside(path, folder)):
                raise ModelError(
                    f"{path} is a link to {target}, outside {folder}: no link is followed out of a model's folder; "
                    "copy that file, if it belongs to the model"
                )
            if path.exists() and not path.is_file() and not path.is_dir():
                raise ModelError(f"{path} is no regular file; remove it, or give another model's folder")
        folders[:] = [name for name in folders if not name.startswith(".")]


def read_object(file: Path) -> dict[str, Any]:
    """Return the JSON object in a model's file. Raises ModelError."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} cannot be read: {first_line(error)}; fetch it again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} holds a {type(content).__name__}, no object; fetch it again")
    return content


def load_config(model: ModelConfig) -> Any:
    """Return the model's transformers configuration (of its text part). Raises ModelError."""
    from transformers import AutoConfig, PreTrainedConfig

    folder = model_folder(model)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=model.trust_remote_code)
    except Exception as error:
        raise ModelError(f"{model.model} has a config.json that cannot be read: {first_line(error)}") from error
    text = config.get_text_config()
    if not isinstance(text, PreTrainedConfig):
        raise ModelError(f"{model.model} has a config.json whose text_config is no object; fetch it again")
    if strange := [f"{name}: {value!r}"[:99] for name in COUNTS if not _is_count(value := getattr(text, name, None))]:
        raise ModelError(f"{model.model} has a config.json with {', '.join(strange)}, no count; fetch it again")
    return text


def _is_count(value: object) -> bool:
    return value is None or (isinstance(value, int) and 0 < value < MAX_COUNT)


def weights_bytes(model: ModelConfig, float_bytes: int | None = None) -> int:
    """Return the bytes of the model's weights, with `float_bytes` for each unquantised float where given.

    Counted from the files' headers, for a DummyModel from its config.json. Raises ModelError.
    """
    return sum(
        math.prod(shape) * (float_bytes if float_bytes and dtype in FLOATS else _num_bytes(dtype))
        for dtype, shape in weights(model).values()
    )


def weights(model: ModelConfig) -> dict[str, Weight]:
    """Return dtype and shape of each weight that vLLM loads, by name. Raises ModelError."""
    if not model.has_weights:
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            shapes = AutoModelForCausalLM.from_config(load_config(model))
        names = {4: "F32", 2: "BF16"}
        return {
            name: (names[parameter.element_size()], tuple(parameter.shape))
            for name, parameter in shapes.named_parameters()
        }
    headers = (read_header(file) for file in _weight_files(model_folder(model)))
    return {name: weight for header in headers for name, weight in header.items()}


def read_header(file: Path) -> dict[str, Weight]:
    """Return dtype and shape of each tensor in a safetensors file, by name. Raises ModelError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118  (safe_open is no mapping)
            return {name: (tensor.get_dtype(), tuple(tensor.get_shape())) for name, tensor in slices.items()}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} cannot be read: {first_line(error)}; fetch it again") from error


def _weight_files(folder: Path) -> list[Path]:
    """Return the files that the index names, if there is one: Mistral's folders hold the same weights twice."""
    files, index = sorted(folder.glob(WEIGHTS)), folder / "model.safetensors.index.json"
    if not index.is_file():
        return files
    try:
        named = set(read_object(index)["weight_map"].values())
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is no index of weights: {first_line(error)}; fetch it again") from error
    return [file for file in files if file.name in named]


def _num_bytes(dtype: str) -> int:
    """Return the bytes of one element: 2 for BF16, 1 for F8_E4M3 and BOOL."""
    bits = "".join(filter(str.isdigit, dtype.partition("_")[0]))
    return int(bits or 8) // 8
