"""The loader that puts each model where it is placed: into this process, or into workers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from sampling.config import EngineConfig, ModelConfig
from sampling.engine.vllm_engine import VllmEngine
from sampling.models.folder import load_config
from sampling.models.memory import DeviceMemory, MemoryPlan, device_memory, plan_memory
from sampling.workers.engine import RemoteEngine
from sampling.workers.placement import HERE, Devices, Placement, join_ids

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """A model to load."""

    name: str  # for messages: theta, teacher
    model: ModelConfig
    engine: EngineConfig
    max_model_len: int
    kv_cache_bytes: int  # per GPU
    devices: Devices


def load_engines(requests: Sequence[LoadRequest], device: str) -> list[VllmEngine | RemoteEngine]:
    """Load the models, workers concurrently; return them in order. `device` is cpu or cuda.

    Raises ModelError, UnsupportedVllmError, or EngineDiedError when a worker ends; none stays loaded then.
    """
    loaded: dict[str, VllmEngine | RemoteEngine] = {}
    mixing = torch.device("cpu") if device == "cpu" else torch.device("cuda", HERE[0])
    try:
        for request in sorted(requests, key=lambda request: request.devices == HERE):  # workers first
            options = request.model, request.engine, request.max_model_len, request.kv_cache_bytes
            if request.devices == HERE:
                loaded[request.name] = VllmEngine(*options)
            else:
                loaded[request.name] = RemoteEngine(request.name, *options, devices=request.devices, device=mixing)
        for engine in loaded.values():
            if isinstance(engine, RemoteEngine):
                engine.wait_until_loaded()
    except BaseException:
        for engine in loaded.values():
            engine.close()
        raise
    return [loaded[request.name] for request in requests]


def plan_caches(
    theta: ModelConfig,
    teacher: ModelConfig,
    engine: EngineConfig,
    placement: Placement,
    device: str,
    shared_weights: bool,
    log: Callable[[str], None] = logger.info,
) -> tuple[int, int]:
    """Return the KV cache bytes per GPU of theta and of the teacher. Raises CapacityError.

    `log` receives each memory plan as text. Models that share no GPU are planned separately; on a CPU all processes
    share one memory.
    """
    if device == "cpu":
        plan = plan_memory(theta, teacher, engine, device, shared=shared_weights)
        log(f"memory: {plan}")
        return plan.theta_bytes // _num_splits(theta), plan.teacher_bytes // _num_splits(teacher)

    def plan_on(gpus: Devices, *, theta: ModelConfig | None = None, teacher: ModelConfig | None = None) -> MemoryPlan:
        found = [device_memory(device, gpu) for gpu in gpus]
        least = DeviceMemory(min(gpu.total_bytes for gpu in found), min(gpu.free_bytes for gpu in found))
        plan = plan_memory(theta, teacher, engine, device, shared=shared_weights, memory=least)
        log(f"memory of GPU {join_ids(sorted(set(gpus)))}: {plan}")
        return plan

    if set(placement.theta) & set(placement.teacher):
        plan = plan_on((*placement.theta, *placement.teacher), theta=theta, teacher=teacher)
        return plan.theta_bytes, plan.teacher_bytes
    theta_plan, teacher_plan = plan_on(placement.theta, theta=theta), plan_on(placement.teacher, teacher=teacher)
    return theta_plan.theta_bytes, teacher_plan.teacher_bytes


def _num_splits(model: ModelConfig) -> int:
    """Return over how many workers the KV cache is split; heads fewer than workers are replicated."""
    config = load_config(model)
    heads: int = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return min(heads, model.tensor_parallel_size)
