"""The assignment of both models to GPUs.

GPUs are numbered as this process sees them. Logits are mixed on GPU 0, and a model on GPU 0 alone is loaded into this
process; any other is loaded into worker processes, one per GPU. On a CPU the numbers are processes: 0 is this one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sampling.config import ModelConfig
from sampling.errors import CapacityError, ConfigurationError
from sampling.models.folder import load_config

Devices = tuple[int, ...]
HERE: Devices = (0,)


@dataclass(frozen=True, slots=True)
class Placement:
    """The GPUs of each model."""

    theta: Devices
    teacher: Devices


def place(theta: ModelConfig, teacher: ModelConfig, num_gpus: int | None, shared_weights: bool = False) -> Placement:
    """Assign GPUs: those that `devices` names; else GPU 0 for both where each needs one, else disjoint ones.

    `num_gpus`: of this machine, None on a CPU. `shared_weights`: both models are the same weights, loaded once. Raises
    ConfigurationError for a model that cannot be split so, CapacityError when there are too few GPUs.
    """
    for name, model in (("theta", theta), ("teacher", teacher)):
        check_split(name, model)
    sizes = theta.tensor_parallel_size, teacher.tensor_parallel_size
    if sizes == (1, 1):
        placement = Placement(theta.devices or HERE, teacher.devices or HERE)
    elif shared_weights and theta.devices is teacher.devices is None and sizes[0] == sizes[1]:
        placement = Placement(tuple(range(sizes[0])), tuple(range(sizes[0])))
    else:
        on_theta = theta.devices or _free(sizes[0], teacher.devices or ())
        placement = Placement(on_theta, teacher.devices or _free(sizes[1], on_theta))
    wanted = max(*placement.theta, *placement.teacher) + 1
    if num_gpus is not None and wanted > num_gpus:
        raise CapacityError(
            f"theta on GPUs {join_ids(placement.theta)} with the teacher on {join_ids(placement.teacher)} takes"
            f" {wanted} GPUs, and {num_gpus} can be seen; lower tensor_parallel_size or name others in devices"
        )
    return placement


def check_split(name: str, model: ModelConfig) -> None:
    """Raise ConfigurationError when `tensor_parallel_size` does not divide the model's shapes."""
    size = model.tensor_parallel_size
    if size == 1:
        return
    config = load_config(model)
    num_heads = config.num_attention_heads
    num_kv_heads = getattr(config, "num_key_value_heads", None) or num_heads
    parts = {"attention heads": num_heads, "columns between its layers": getattr(config, "intermediate_size", None)}
    if num_kv_heads >= size:  # fewer are copied to several GPUs
        parts["key-value heads"] = num_kv_heads
    for what, number in parts.items():
        if number is not None and number % size:
            raise ConfigurationError(
                f"{name} ({model.model}) has {number} {what}, which tensor_parallel_size {size} does not divide;"
                f" give a divisor of {number}"
            )
    if num_kv_heads < size and size % num_kv_heads:
        raise ConfigurationError(
            f"{name} ({model.model}) has {num_kv_heads} key-value heads, of which tensor_parallel_size {size} is no"
            f" multiple; give a multiple or a divisor of {num_kv_heads}"
        )


def _free(number: int, taken: Devices) -> Devices:
    """Return the first `number` GPUs that are not taken."""
    return tuple(gpu for gpu in range(number + len(taken)) if gpu not in taken)[:number]


def join_ids(devices: Iterable[int]) -> str:
    """Return device numbers for a message, such as "0, 1"."""
    return ", ".join(map(str, devices))
