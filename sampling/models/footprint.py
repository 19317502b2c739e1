"""Bytes that a model takes of each GPU that it lies on, told from its files before it is loaded.

On a CPU, where the processes of a split model share the machine, they count together.
"""

from __future__ import annotations

import math

from sampling.config import ModelConfig
from sampling.models.folder import load_config, weights, weights_bytes
from sampling.models.lora import MAX_LORAS, adapter_of

GRAPHS_BYTES = 1 << 30  # CUDA graphs, with what cuBLAS and attention keep: an estimate
# Float64 numbers that mixing in plain torch holds at once for a row and id: 19.2 at most, counted over both presets,
# flat and sharp distributions, with top-k and top-p (tests/sampling/models/test_footprint.py). The kernel needs less.
MIXING_NUMBERS = 20


def loaded_bytes(model: ModelConfig, device: str) -> int:
    """The weights as they are loaded, with room for an adapter's factors on every matrix, as vLLM makes it.

    A model that vLLM quantises itself counts as its files have it: so much is there until it has.
    """
    float_bytes = _float_bytes(model, device)
    adapter = adapter_of(model)
    factors = 0
    if adapter is not None:
        factors = (
            MAX_LORAS * adapter.max_rank * sum(sum(shape) for _, shape in weights(model).values() if len(shape) == 2)
        )
    return (weights_bytes(model, float_bytes) + factors * float_bytes) // _num_parts(model, device)


def kv_bytes_per_token(model: ModelConfig, device: str) -> int:
    """One token's keys with its values, over all layers."""
    config = load_config(model)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = math.ceil(heads / _num_parts(model, device))  # fewer heads than GPUs: each has one
    return int(2 * config.num_hidden_layers * heads * head_dim * _float_bytes(model, device))


def activations_bytes(model: ModelConfig, num_tokens: int, device: str) -> int:
    """What a forward pass over so many tokens holds at its widest, the MLP.

    There a token has gate, up and their product, the residual, the layer's input and output.
    """
    config = load_config(model)
    width = 3 * (getattr(config, "intermediate_size", None) or 4 * config.hidden_size) + 4 * config.hidden_size
    return int(num_tokens * width * _float_bytes(model, device))


def logits_bytes(model: ModelConfig, num_rows: int, device: str) -> int:
    """The logits [B, V], twice: two steps are in flight, or rows are put into the other model's order."""
    return 2 * num_rows * num_columns(model) * _float_bytes(model, device)


def mixing_bytes(num_rows: int, num_ids: int) -> int:
    """What mixing [B, V] in float64 holds at its widest."""
    return 8 * MIXING_NUMBERS * num_rows * num_ids


def head_bytes(model: ModelConfig, device: str) -> int:
    """The LM head [V, H], which is applied where the other model lies."""
    return int(num_columns(model) * load_config(model).hidden_size * _float_bytes(model, device))


def num_columns(model: ModelConfig) -> int:
    """V, the width of the logits."""
    return int(load_config(model).vocab_size)


def _num_parts(model: ModelConfig, device: str) -> int:
    return 1 if device == "cpu" else model.tensor_parallel_size


def _float_bytes(model: ModelConfig, device: str) -> int:
    """Of a weight that is not quantised, of an activation, of a key; on a GPU vLLM loads no float32 by itself."""
    return 4 if model.dtype == "float32" or (model.dtype == "auto" and device == "cpu") else 2
