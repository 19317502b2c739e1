"""A calculator of the bytes that a model needs on each of its GPUs, from its files, before it is loaded.

On a CPU, where the processes of a split model share the machine's memory, it counts them together.
"""

from __future__ import annotations

import math

from sampling.config import ModelConfig
from sampling.models.folder import load_config, weights, weights_bytes
from sampling.models.lora import MAX_LORAS, adapter_of

GRAPHS_BYTES = 1 << 30  # CUDA graphs and the workspaces of cuBLAS and attention: an estimate
# Float64 numbers that mixing in plain torch holds at once per row and id: 19.2 at most, counted over both presets, flat
# and sharp distributions, top-k and top-p (tests/sampling/models/test_footprint.py). The kernel needs less.
MIXING_NUMBERS = 20


def loaded_bytes(model: ModelConfig, device: str) -> int:
    """Return the bytes of the loaded weights and of the adapter slots that vLLM allocates on every matrix.

    A model that vLLM quantises at load counts with the size of its files: that much is held until then.
    """
    float_bytes = _float_bytes(model, device)
    adapter = adapter_of(model)
    num_bytes = weights_bytes(model, float_bytes)
    if adapter is not None:
        sides = sum(sum(shape) for _, shape in weights(model).values() if len(shape) == 2)
        num_bytes += MAX_LORAS * adapter.max_rank * sides * float_bytes
    return num_bytes // _num_parts(model, device)


def kv_bytes_per_token(model: ModelConfig, device: str) -> int:
    """Return the bytes of one token's keys and values, over all layers."""
    config = load_config(model)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = math.ceil(heads / _num_parts(model, device))  # with fewer heads than GPUs, each GPU has one
    return int(2 * config.num_hidden_layers * heads * head_dim * _float_bytes(model, device))


def activations_bytes(model: ModelConfig, num_tokens: int, device: str) -> int:
    """Return the peak bytes of a forward pass, reached in the MLP.

    There a token has gate, up and their product, the residual, the layer's input and output.
    """
    config = load_config(model)
    width = 3 * (getattr(config, "intermediate_size", None) or 4 * config.hidden_size) + 4 * config.hidden_size
    return int(num_tokens * width * _float_bytes(model, device))


def logits_bytes(model: ModelConfig, num_rows: int, device: str) -> int:
    """Return the bytes of two copies of the logits [B, V]: of two steps in flight, or of rows being reordered."""
    return 2 * num_rows * num_columns(model) * _float_bytes(model, device)


def mixing_bytes(num_rows: int, num_ids: int) -> int:
    """Return the peak bytes of mixing [B, V] in float64."""
    return 8 * MIXING_NUMBERS * num_rows * num_ids


def head_bytes(model: ModelConfig, device: str) -> int:
    """Return the bytes of the LM head [V, H], which is applied on the other model's GPU."""
    return int(num_columns(model) * load_config(model).hidden_size * _float_bytes(model, device))


def num_columns(model: ModelConfig) -> int:
    """Return V, the width of the logits."""
    return int(load_config(model).vocab_size)


def _num_parts(model: ModelConfig, device: str) -> int:
    return 1 if device == "cpu" else model.tensor_parallel_size


def _float_bytes(model: ModelConfig, device: str) -> int:
    """Return the bytes of an unquantised weight, an activation, a key; on a GPU 'auto' never means float32."""
    return 4 if model.dtype == "float32" or (model.dtype == "auto" and device == "cpu") else 2
