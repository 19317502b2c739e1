"""The options that vLLM's `LLM` is constructed with, and the number of CPU threads."""

from __future__ import annotations

import sampling.environment  # noqa: F401  isort: skip  (vLLM reads its environment at import)

from typing import Any

import torch

from sampling.config import EngineConfig, ModelConfig
from sampling.errors import ModelError
from sampling.models.folder import load_config, model_folder
from sampling.models.installed import resolved_dtype
from sampling.models.lora import MAX_LORAS, adapter_of
from sampling.models.memory import batch_tokens

SMALL_MODEL_BYTES = 64 << 20
NOT_COMPILED = {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}  # decoding still replays CUDA graphs
set_num_threads = torch.set_num_threads  # kept: vLLM's CPU worker replaces it by a no-op


def limit_threads(num_weights_bytes: int) -> None:
    """Use one CPU thread for small models, whose operations cost less than the threads' synchronisation.

    On two cores with other work, 149 steps of a 0.4 MB pair took 32 s on two threads, 2.5 s on one.
    """
    if device_type() == "cpu" and num_weights_bytes < SMALL_MODEL_BYTES:
        set_num_threads(1)


def device_type() -> str:
    """Return the device type that this vLLM runs models on: 'cuda' or 'cpu'."""
    from vllm.platforms import current_platform

    return str(current_platform.device_type)


def llm_options(model: ModelConfig, engine: EngineConfig, max_model_len: int, kv_cache_bytes: int) -> dict[str, Any]:
    """Return the keyword arguments of vLLM's `LLM` for a model. Raises ModelError."""
    on_cpu = device_type() == "cpu"
    adapter = adapter_of(model)
    is_quantised = model.quantization or getattr(load_config(model), "quantization_config", None) is not None
    if adapter is not None and on_cpu and is_quantised:
        raise ModelError(
            f"lora {model.lora} on the quantised {model.model}: vLLM's layers of this kind take no adapter on a CPU;"
            " merge it into the weights, or load the model that was not quantised"
        )
    return {
        "model": str(model_folder(model)),
        "skip_tokenizer_init": True,
        "load_format": "safetensors" if model.has_weights else "dummy",
        "dtype": resolved_dtype(model, device_type()),  # not vLLM's auto: the run's identity holds it
        "quantization": model.quantization,
        "trust_remote_code": model.trust_remote_code,
        "max_model_len": max_model_len,
        "max_num_seqs": engine.max_num_seqs,
        "tensor_parallel_size": model.tensor_parallel_size,
        "max_num_batched_tokens": batch_tokens(engine, max_model_len),
        "kv_cache_memory_bytes": kv_cache_bytes,
        # vLLM's start-up check requires this share to be free, which next to the other engine it is not; the cache has
        # the planned size above
        "gpu_memory_utilization": 0.01,
        "enable_prefix_caching": engine.enable_prefix_caching,
        "enforce_eager": on_cpu,
        **({} if on_cpu or engine.torch_compile else {"compilation_config": NOT_COMPILED}),
        "disable_log_stats": True,
        **({} if adapter is None else {"enable_lora": True, "max_loras": MAX_LORAS, "max_lora_rank": adapter.max_rank}),
    }


def lora_request(model: ModelConfig) -> Any | None:
    """Return the vllm.lora.request.LoRARequest of the model's requests, None without an adapter. Raises ModelError."""
    from vllm.lora.request import LoRARequest

    adapter = adapter_of(model)
    return None if adapter is None else LoRARequest("adapter", 1, str(adapter.folder))
