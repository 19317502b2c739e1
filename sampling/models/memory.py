"""The planner of a device's memory: sizes both KV caches before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sampling.config import EngineConfig, ModelConfig
from sampling.errors import CapacityError, ModelError
from sampling.models import footprint
from sampling.models.folder import load_config

GIB, MIB = 1 << 30, 1 << 20
BLOCK_TOKENS = 128  # vLLM's largest default KV block; vLLM reserves one block as its null block
CPU_SHARE = 0.3  # of a CPU machine's free memory, for the caches sized here: other programs share the machine


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """The memory of a GPU or of a machine."""

    total_bytes: int
    free_bytes: int  # not held by any process


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """One model's share of a device's memory."""

    weights_bytes: int  # 0 for shared weights that the other model counts
    cache_bytes: int
    row_bytes: int  # KV cache of one row of full context
    context: int  # tokens
    is_given: bool  # whether the user set the cache's size

    @property
    def num_rows(self) -> int:
        """Number of rows of full context that the KV cache holds."""
        blocks = -(-self.context // BLOCK_TOKENS)
        return max(0, self.cache_bytes * blocks // self.row_bytes - 1) // blocks  # −1: the null block

    def with_more(self, num_rows: float) -> ModelMemory:
        """Return a copy whose cache holds `num_rows` more, unless the user set its size."""
        return self if self.is_given else replace(self, cache_bytes=self.cache_bytes + int(num_rows * self.row_bytes))


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The memory that the models on one device need; `str` is the sum in words."""

    models: dict[str, ModelMemory]  # theta, teacher
    workspace: dict[str, int]  # bytes by purpose
    limit_bytes: int
    limit: str  # the limit in words

    @property
    def theta_bytes(self) -> int:
        """Bytes of theta's KV cache."""
        return self.models["theta"].cache_bytes

    @property
    def teacher_bytes(self) -> int:
        """Bytes of the teacher's KV cache."""
        return self.models["teacher"].cache_bytes

    @property
    def workspace_bytes(self) -> int:
        """Bytes other than weights and KV caches."""
        return sum(self.workspace.values())

    @property
    def total_bytes(self) -> int:
        """Sum of weights, KV caches and workspace."""
        models = self.models.values()
        return self.workspace_bytes + sum(model.weights_bytes + model.cache_bytes for model in models)

    def __str__(self) -> str:
        shared_weights = not all(model.weights_bytes for model in self.models.values())
        terms = []
        for name, model in self.models.items():
            if model.weights_bytes:
                terms.append(f"{'one model' if shared_weights else name}'s weights {_size(model.weights_bytes)}")
            rows = f"{model.num_rows:,} row{'' if model.num_rows == 1 else 's'} of {model.context:,} tokens"
            terms.append(f"{name}'s KV cache {_size(model.cache_bytes)} ({rows})")
        parts = ", ".join(f"{name} {_size(size)}" for name, size in self.workspace.items())
        terms.append(f"workspace {_size(self.workspace_bytes)} ({parts})")
        return f"{' + '.join(terms)} = {_size(self.total_bytes)} of {_size(self.limit_bytes)} {self.limit}"


def plan_memory(
    theta: ModelConfig | None,
    teacher: ModelConfig | None,
    engine: EngineConfig,
    device: str,
    *,
    shared: bool = False,
    memory: DeviceMemory | None = None,
) -> MemoryPlan:
    """Divide the memory left by weights and workspace so that both KV caches hold equally many rows of full context.

    They hold at most `max_num_seqs` rows. `shared`: both are one model, loaded once, whose one cache is the sum of
    both. None is a model on another device, which has a plan of its own. `memory` defaults to `device_memory`.
    Raises CapacityError with the sum when not one row fits, ModelError for a folder without weights.
    """
    models = {name: model for name, model in (("theta", theta), ("teacher", teacher)) if model is not None}
    memory = device_memory(device) if memory is None else memory
    limit_bytes, limit, advice = _limit(memory, engine, device)
    plan = MemoryPlan(
        models={
            name: _with_one_row(model, device, counts_weights=name == "theta" or not shared)
            for name, model in models.items()
        },
        workspace=_workspace(list(models.values()), engine, device, shared),
        limit_bytes=limit_bytes,
        limit=limit,
    )
    spare = plan.limit_bytes - plan.total_bytes
    if spare < 0:
        raise CapacityError(
            f"{' and '.join(models)} cannot fit: {plan}; lower max_model_len, max_num_batched_tokens, max_num_seqs or"
            f" kv_cache_memory_bytes,{advice} or choose smaller or quantised models"
        )
    if device == "cpu":
        spare = min(spare, int(CPU_SHARE * memory.free_bytes))
    a_row = sum(model.row_bytes for model in plan.models.values() if not model.is_given)
    num_more = min(engine.max_num_seqs - 1, spare / max(1, a_row))
    return replace(plan, models={name: model.with_more(num_more) for name, model in plan.models.items()})


def _limit(memory: DeviceMemory, engine: EngineConfig, device: str) -> tuple[int, str, str]:
    """Return the bytes that both models may take, the same in words, and advice that would raise them."""
    if device == "cpu":
        return memory.free_bytes, "that are free", ""
    share, total, free = engine.gpu_memory_utilization, memory.total_bytes, memory.free_bytes
    if (limit := int(total * share)) <= free:
        return limit, f"({share:.0%} of the GPU's {_size(total)})", " raise gpu_memory_utilization,"
    text = f"({share:.0%} of the {_size(free)} that other processes leave of the GPU's {_size(total)})"
    return int(free * share), text, " end what else runs on the GPU,"


def _with_one_row(model: ModelConfig, device: str, counts_weights: bool) -> ModelMemory:
    """Return the model's memory with the cache that the user set, else with one of a row and vLLM's null block."""
    context, given = context_length(model), model.kv_cache_memory_bytes
    block_bytes = BLOCK_TOKENS * footprint.kv_bytes_per_token(model, device)
    row_bytes = -(-context // BLOCK_TOKENS) * block_bytes
    cache_bytes = given or row_bytes + block_bytes
    taken = footprint.loaded_bytes(model, device) if counts_weights else 0
    if counts_weights and not taken:
        raise ModelError(f"{model.model} holds no *.safetensors, the one format that is loaded; fetch or convert it")
    return ModelMemory(taken, cache_bytes, row_bytes, context, is_given=given is not None)


def _workspace(models: list[ModelConfig], engine: EngineConfig, device: str, shared: bool) -> dict[str, int]:
    num_rows, lengths = engine.max_num_seqs, [context_length(model) for model in models]
    steps = [(model, batch_tokens(engine, length)) for model, length in zip(models, lengths, strict=True)]
    if shared:  # a step processes both prompts of every row
        steps = [(models[0], max(batch_tokens(engine, sum(lengths)), 2 * num_rows))]
    workspace = {
        # the models run one after the other, and torch reuses the first one's memory for the second
        "activations": max(footprint.activations_bytes(model, num_tokens, device) for model, num_tokens in steps),
        "logits": sum(footprint.logits_bytes(model, num_rows, device) for model in models),
        "mixing": footprint.mixing_bytes(num_rows, min(footprint.num_columns(model) for model in models)),
    }
    if len(models) == 1:  # assume that the other model's are as large
        workspace["logits"] *= 2
        workspace["the other model's head"] = footprint.head_bytes(models[0], device)
    if device != "cpu":
        workspace["CUDA graphs"] = footprint.GRAPHS_BYTES * len(steps)
    return workspace


def device_memory(device: str, number: int = 0) -> DeviceMemory:
    """Return the memory of a GPU, numbered as in this process, or of a CPU's machine, whose page cache counts as free.

    All memory of a GPU other than the first, on which no logits are mixed, counts as free.
    """
    if device == "cpu":
        import psutil

        machine = psutil.virtual_memory()
        return DeviceMemory(int(machine.total), int(machine.available))
    import torch

    if number != 0:  # a worker's: querying its free memory would create a CUDA context of some hundred MB
        total = int(torch.cuda.get_device_properties(number).total_memory)
        return DeviceMemory(total, total)
    free, total = torch.cuda.mem_get_info(number)
    kept = torch.cuda.memory_reserved(number) - torch.cuda.memory_allocated(number)  # cached by torch, reusable
    return DeviceMemory(total, free + kept)


def context_length(model: ModelConfig) -> int:
    """Return the model's context in tokens: as configured, else its own. Raises CapacityError when it is exceeded."""
    config = load_config(model)
    own = int(config.max_position_embeddings)
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if model.max_model_len and model.max_model_len > own and rope.get("rope_type", "default") == "default":
        raise CapacityError(
            f"max_model_len {model.max_model_len:,} exceeds the {own:,} tokens that {model.model} was made for;"
            " lower it"
        )
    return model.max_model_len or own


def batch_tokens(engine: EngineConfig, max_model_len: int) -> int:
    """Return the tokens of a step: a whole prompt, since none is split, and a token for every row."""
    return max(engine.max_num_batched_tokens, max_model_len, engine.max_num_seqs)


def check_max_tokens(max_tokens: int, context: int) -> None:
    """Raise CapacityError when `max_tokens` leave no room for a prompt in a context of so many tokens."""
    if max_tokens >= context:
        raise CapacityError(
            f"max_tokens {max_tokens} leaves no room for a prompt in a context of {context} tokens; lower max_tokens"
        )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / MIB:.1f} MiB"
