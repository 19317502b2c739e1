"""The plan that gives each engine its KV cache."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from sampling.config import EngineConfig, ModelConfig
from sampling.errors import CapacityError
from sampling.models import load_config, weights_bytes

GIB = 1 << 30
WORKSPACE_BYTES = 4 * GIB  # activations, CUDA graphs and float64 mixing of a pair on a GPU
CPU_SHARE = 0.3  # of a CPU machine's free memory, for both caches
MIN_CACHE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes of KV cache for theta, then for the teacher."""

    theta_bytes: int
    teacher_bytes: int

    def __str__(self) -> str:
        return f"KV cache: theta {self.theta_bytes / GIB:.2f} GiB, teacher {self.teacher_bytes / GIB:.2f} GiB"


def plan_memory(theta: ModelConfig, teacher: ModelConfig, engine: EngineConfig, device: str) -> MemoryPlan:
    """Split what the device can spare by each model's KV bytes a token, so that both hold the same rows.

    Never more than `max_num_seqs` rows of full context need. Raises CapacityError with the sum when the
    pair's weights alone exceed the share of a GPU that it may use.
    """
    rates = [kv_bytes_per_token(model, device) for model in (theta, teacher)]
    needs = [
        rate * context_length(model) * (engine.max_num_seqs + 1)
        for rate, model in zip(rates, (theta, teacher), strict=True)
    ]
    spare = _spare_bytes(theta, teacher, engine, device)
    share = min(1.0, spare / sum(needs))
    planned = [max(MIN_CACHE_BYTES, int(need * share)) for need in needs]
    return MemoryPlan(theta.kv_cache_memory_bytes or planned[0], teacher.kv_cache_memory_bytes or planned[1])


def context_length(model: ModelConfig) -> int:
    """The model's context, tokens: as configured, else its own."""
    return int(model.max_model_len or load_config(model).max_position_embeddings)


def check_max_tokens(max_tokens: int, context: int) -> None:
    """Raises CapacityError when no prompt fits beside `max_tokens` in a context of so many tokens."""
    if max_tokens >= context:
        raise CapacityError(
            f"max_tokens {max_tokens} leaves no room for a prompt in a context of {context} tokens; lower max_tokens"
        )


def kv_bytes_per_token(model: ModelConfig, device: str) -> int:
    """Bytes that one token's keys with its values take over all layers."""
    config = load_config(model)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * head_dim * _element_bytes(model, config, device))


def _element_bytes(model: ModelConfig, config: Any, device: str) -> int:
    dtype: str = model.dtype
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else str(getattr(config, "dtype", "bfloat16")).removeprefix("torch.")
    return 4 if dtype == "float32" else 2


def _spare_bytes(theta: ModelConfig, teacher: ModelConfig, engine: EngineConfig, device: str) -> int:
    if device == "cpu":
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return int(free * CPU_SHARE)
    import torch

    total = torch.cuda.get_device_properties(0).total_memory
    usable = int(total * engine.gpu_memory_utilization)
    weights = weights_bytes(theta) + weights_bytes(teacher)
    spare = usable - weights - WORKSPACE_BYTES
    if spare < 2 * MIN_CACHE_BYTES:
        raise CapacityError(
            f"the pair does not fit: weights {weights / GIB:.1f} GiB + workspace {WORKSPACE_BYTES / GIB:.0f} GiB"
            f" exceed {usable / GIB:.1f} GiB ({engine.gpu_memory_utilization:.0%} of {total / GIB:.1f} GiB);"
            " choose smaller models or a quantisation"
        )
    return spare
