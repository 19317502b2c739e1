"""Models loaded where they are placed, those in workers beside each other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from sampling.config import EngineConfig, ModelConfig
from sampling.engine.vllm_engine import VllmEngine
from sampling.models.folder import load_config
from sampling.models.memory import DeviceMemory, device_memory, plan_memory
from sampling.workers.engine import RemoteEngine
from sampling.workers.placement import HERE, Devices, Placement

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model to be loaded."""

    name: str  # for messages: theta, teacher
    model: ModelConfig
    engine: EngineConfig
    max_model_len: int
    kv_cache_bytes: int  # on each of its GPUs
    devices: Devices


def load_engines(wanted: Sequence[Wanted], device: str) -> list[VllmEngine | RemoteEngine]:
    """The models in their order; `device` is cpu or cuda.

    Raises ModelError, UnsupportedVllmError, or EngineDiedError when a worker ends; none stays loaded then.
    """
    loaded: dict[str, VllmEngine | RemoteEngine] = {}
    mixing = torch.device("cpu") if device == "cpu" else torch.device("cuda", HERE[0])
    try:
        for one in sorted(wanted, key=lambda one: one.devices == HERE):  # workers first: they load meanwhile
            info = one.model, one.engine, one.max_model_len, one.kv_cache_bytes
            if one.devices == HERE:
                loaded[one.name] = VllmEngine(*info)
            else:
                loaded[one.name] = RemoteEngine(one.name, *info, devices=one.devices, device=mixing)
        for engine in loaded.values():
            if isinstance(engine, RemoteEngine):
                engine.wait_until_loaded()
    except BaseException:
        for engine in loaded.values():
            engine.close()
        raise
    return [loaded[one.name] for one in wanted]


def plan_caches(
    theta: ModelConfig,
    teacher: ModelConfig,
    engine: EngineConfig,
    placement: Placement,
    device: str,
    shared_weights: bool,
    say: Callable[[str], None] = logger.info,
) -> tuple[int, int]:
    """KV cache bytes on each of theta's GPUs, then on each of the teacher's. Raises CapacityError.

    `say` is given each plan in words.
    Models that have no GPU in common are planned apart; on a CPU all processes share one memory.
    """
    if device == "cpu":
        plan = plan_memory(theta, teacher, engine, device, shared=shared_weights)
        say(f"memory: {plan}")
        return plan.theta_bytes // _num_splits(theta), plan.teacher_bytes // _num_splits(teacher)
    if set(placement.theta) & set(placement.teacher):
        gpus = (*placement.theta, *placement.teacher)
        plan = plan_memory(theta, teacher, engine, device, shared=shared_weights, memory=_least_memory(gpus, device))
        say(f"memory of GPU {_shown(gpus)}: {plan}")
        return plan.theta_bytes, plan.teacher_bytes
    theta_plan = plan_memory(theta, None, engine, device, memory=_least_memory(placement.theta, device))
    teacher_plan = plan_memory(None, teacher, engine, device, memory=_least_memory(placement.teacher, device))
    for gpus, plan in ((placement.theta, theta_plan), (placement.teacher, teacher_plan)):
        say(f"memory of GPU {_shown(gpus)}: {plan}")
    return theta_plan.theta_bytes, teacher_plan.teacher_bytes


def _shown(gpus: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(set(gpus))))


def _least_memory(gpus: Iterable[int], device: str) -> DeviceMemory:
    found = [device_memory(device, gpu) for gpu in gpus]
    return DeviceMemory(min(one.total_bytes for one in found), min(one.free_bytes for one in found))


def _num_splits(model: ModelConfig) -> int:
    """Into how many its keys are split; heads that are fewer than workers are copied."""
    config = load_config(model)
    heads: int = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return min(heads, model.tensor_parallel_size)
