"""A run's identity: a hash of everything that changes what is sampled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampling.config import ModelConfig
from sampling.models.folder import model_folder
from sampling.models.installed import installed_engine, resolved_dtype
from sampling.models.lora import adapter_of
from tasks.config import PipelineConfig

if TYPE_CHECKING:
    from tasks.source.rows import SourceReport

# Raised by hand when the same configuration begins to draw other tokens, or to record other diagnostics of them, so
# that no run is resumed across the change.
SAMPLING_REVISION = 4
TEXT_SUFFIXES = {".json", ".jinja", ".txt", ".model", ".py"}  # configuration, tokenizer, remote code: hashed whole
WEIGHT_SUFFIXES = {".safetensors"}
# Of a weights file, its size and 64 blocks are hashed: 0.1 s for a 15 GB model; other weights differ in every block.
NUM_BLOCKS, BLOCK_BYTES = 64, 64 * 1024
HTTP_KEYS = {"top_k", "max_tail_mass", "name_ids"}  # bound which tokens of a served pair can be drawn

Identity = dict[str, Any]


def identity_of(config: PipelineConfig, report: SourceReport) -> Identity:
    """Return what a run samples, as JSON: models, mixture, resolved prompts, sampling, adapter, source.

    Of models that are loaded here it also holds the precision, the device and the versions of vLLM and torch: a float32
    run on a CPU does not go on in bfloat16 on a GPU. Left out: paths, shards, retries, limits, the published location,
    and the batch size: given the logits, a draw depends on (seed, row id, sample index, position) alone.
    """
    return {
        "revision": SAMPLING_REVISION,
        "source": {
            "fingerprint": report.fingerprint,
            "adapter": report.adapter,
            "columns": config.source.columns,
        },
        "prompts": report.prompts.model_dump(mode="json"),
        "models": {
            "teacher": model_identity(config.models.teacher),
            "theta": model_identity(config.models.theta),
        },
        # A preset is only a name for its keys, which are all there.
        "mixture": config.mixture.model_dump(mode="json", exclude={"preset_name"}),
        "sampling": config.sampling.model_dump(mode="json"),
        **({} if config.models.theta.urls else {"engine": installed_engine()}),
        **({"http": config.http.model_dump(include=HTTP_KEYS)} if config.models.theta.urls else {}),
        # Of the bounds only what is not the default: other identities stay valid.
        **({"bounds": bounds} if (bounds := config.bounds.model_dump(exclude_defaults=True)) else {}),
    }


def run_id_of(identity: Identity) -> str:
    """Return the SHA-256 of an identity: 64 hex digits."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def model_identity(model: ModelConfig) -> dict[str, Any]:
    """Identify a model by its content: a copy, or a Hub snapshot of the same commit, is the same model.

    Raises ModelError when there is no such model, or no such adapter.
    """
    left_out = {"model", "revision", "lora", "lora_revision", "kv_cache_memory_bytes", "url", "served_name"}
    left_out |= {"tensor_parallel_size", "devices"}  # they change logits by rounding errors alone
    settings = model.model_dump(mode="json", exclude=left_out)
    if (adapter := adapter_of(model)) is not None:  # no key without one: identities from before LoRA stay valid
        settings["lora"] = _content_of(adapter.files)
    if model.urls:  # the weights are on the server, identified by the served name
        settings["served"] = model.served_name or model.model
    elif (device := installed_engine().get("device")) is not None:
        settings["dtype"] = resolved_dtype(model, device)
    return {"content": _content_of(sorted(model_folder(model).iterdir())), **settings}


def differing_keys(theirs: Identity, ours: Identity, prefix: str = "") -> list[str]:
    """Return each key whose values differ, as `section.key: theirs there, ours here`."""
    differing = []
    for key in sorted(theirs.keys() | ours.keys()):
        there, here = theirs.get(key), ours.get(key)
        if isinstance(there, dict) and isinstance(here, dict):
            differing += differing_keys(there, here, f"{prefix}{key}.")
        elif there != here:
            differing.append(f"{prefix}{key}: {_short(there)} there, {_short(here)} here")
    return differing


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _content_of(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        if not path.is_file() or path.suffix not in TEXT_SUFFIXES | WEIGHT_SUFFIXES:
            continue
        num_bytes = path.stat().st_size
        digest.update(f"{path.name}\0{num_bytes}\0".encode())
        with open(path, "rb") as file:
            if path.suffix in TEXT_SUFFIXES or num_bytes <= NUM_BLOCKS * BLOCK_BYTES:
                digest.update(file.read())
                continue
            for i in range(NUM_BLOCKS):
                file.seek(i * (num_bytes - BLOCK_BYTES) // (NUM_BLOCKS - 1))
                digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()
