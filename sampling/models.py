"""The local folder of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sampling.config import ModelConfig
from sampling.errors import ModelError

WEIGHTS = "*.safetensors"
NEEDED = ("*.json", WEIGHTS, "*.jinja", "*.model", "*.txt", "*.py")  # no pickled weights


def model_folder(model: ModelConfig) -> Path:
    """Where the model lies: its own folder, or the Hub snapshot of its revision, fetched when missing.

    Raises ModelError when there is no such folder or snapshot, or no safetensors model in it.
    """
    folder = Path(model.model).expanduser()
    if not folder.is_dir():
        folder = _snapshot(model)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{model.model} is no model: {folder} holds no config.json; give a model's folder")
    return folder


def _snapshot(model: ModelConfig) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        # The weights of a served model are elsewhere, a DummyModel needs none.
        needed = [pattern for pattern in NEEDED if pattern != WEIGHTS or (model.has_weights and not model.urls)]
        return Path(snapshot_download(model.model, revision=model.revision, allow_patterns=needed))
    except HFValidationError as error:
        raise ModelError(f"no model folder {model.model!r}: give an existing folder or a Hub id org/name") from error
    except Exception as error:  # the Hub client raises a dozen kinds, offline or not; each means no model
        raise ModelError(
            f"model {model.model!r} is neither a folder here nor to be had from the Hub"
            f" ({type(error).__name__}); check the name, or download it first"
        ) from error


def load_config(model: ModelConfig) -> Any:
    """The model's transformers configuration (of its text part). Raises ModelError."""
    from transformers import AutoConfig

    folder = model_folder(model)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=model.trust_remote_code)
    except Exception as error:
        raise ModelError(f"{model.model} has a config.json that cannot be read: {first_line(error)}") from error
    return config.get_text_config()


def eos_ids(model: ModelConfig) -> frozenset[int]:
    """Every id that ends a completion, by the model's generation_config, else by its config."""
    from transformers import GenerationConfig

    folder = model_folder(model)
    ids = None
    if (folder / "generation_config.json").is_file():
        ids = GenerationConfig.from_pretrained(folder).eos_token_id
    if ids is None:
        ids = getattr(load_config(model), "eos_token_id", None)
    if ids is None:
        return frozenset()
    return frozenset(ids) if isinstance(ids, (list, tuple)) else frozenset([ids])


def weights_bytes(model: ModelConfig) -> int:
    """Size of the model's safetensors files; of what they would hold for a DummyModel."""
    if not model.has_weights:
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            shapes = AutoModelForCausalLM.from_config(load_config(model))
        return sum(parameter.numel() * parameter.element_size() for parameter in shapes.parameters())
    return sum(file.stat().st_size for file in model_folder(model).glob("*.safetensors"))


def first_line(error: BaseException) -> str:
    """The first line of an error's text, cut to 300 characters."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]
