"""The plan of a device's memory, made before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sampling.config import EngineConfig, ModelConfig
from sampling.errors import CapacityError, ModelError
from sampling.models.folder import load_config
from sampling.models.footprint import (
    GRAPHS_BYTES,
    activations_bytes,
    head_bytes,
    kv_bytes_per_token,
    loaded_bytes,
    logits_bytes,
    mixing_bytes,
    num_columns,
)

GIB, MIB = 1 << 30, 1 << 20
BLOCK_TOKENS = 128  # the largest KV block that vLLM takes by itself; it keeps one more as its null block
CPU_SHARE = 0.3  # of a CPU machine's free memory, for the caches that are sized here: others live there, too


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """A GPU's memory, or a machine's, bytes."""

    total_bytes: int
    free_bytes: int  # what no process holds now


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """What one model takes of the device, bytes."""

    weights_bytes: int  # 0 where they are the other model's
    cache_bytes: int
    row_bytes: int  # KV cache of one row of full context
    context: int  # tokens
    is_given: bool  # the cache's size is the user's

    @property
    def num_rows(self) -> int:
        """Rows of full context that the KV cache holds."""
        blocks = -(-self.context // BLOCK_TOKENS)
        return max(0, self.cache_bytes * blocks // self.row_bytes - 1) // blocks  # one is the null block

    def with_more(self, num_rows: float) -> ModelMemory:
        """The same with a cache for so many rows more, where its size is not given."""
        return self if self.is_given else replace(self, cache_bytes=self.cache_bytes + int(num_rows * self.row_bytes))


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What the models on a device take of it; `str` is the sum, for people."""

    models: dict[str, ModelMemory]  # theta, teacher
    workspace: dict[str, int]  # bytes by what they are for
    limit_bytes: int
    limit: str  # what that is, in words

    @property
    def theta_bytes(self) -> int:
        """Theta's KV cache."""
        return self.models["theta"].cache_bytes

    @property
    def teacher_bytes(self) -> int:
        """The teacher's KV cache."""
        return self.models["teacher"].cache_bytes

    @property
    def workspace_bytes(self) -> int:
        """What is neither weights nor KV cache."""
        return sum(self.workspace.values())

    @property
    def total_bytes(self) -> int:
        """All of it."""
        models = self.models.values()
        return self.workspace_bytes + sum(model.weights_bytes + model.cache_bytes for model in models)

    def __str__(self) -> str:
        shared_weights = not all(model.weights_bytes for model in self.models.values())
        terms = []
        for name, model in self.models.items():
            if model.weights_bytes:
                terms.append(f"{'one model' if shared_weights else name}'s weights {_shown(model.weights_bytes)}")
            rows = f"{model.num_rows:,} row{'' if model.num_rows == 1 else 's'} of {model.context:,} tokens"
            terms.append(f"{name}'s KV cache {_shown(model.cache_bytes)} ({rows})")
        parts = ", ".join(f"{name} {_shown(size)}" for name, size in self.workspace.items())
        terms.append(f"workspace {_shown(self.workspace_bytes)} ({parts})")
        return f"{' + '.join(terms)} = {_shown(self.total_bytes)} of {_shown(self.limit_bytes)} {self.limit}"


def plan_memory(
    theta: ModelConfig | None,
    teacher: ModelConfig | None,
    engine: EngineConfig,
    device: str,
    *,
    shared: bool = False,
    memory: DeviceMemory | None = None,
) -> MemoryPlan:
    """Give what weights and workspace leave to both KV caches, so that both hold the same rows of full context.

    At most `max_num_seqs` of them. `shared`: the two are one model, loaded once, whose one cache is the sum of both.
    None is a model that lies elsewhere, which has a plan of its own. `memory` is what `device_memory` finds.
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
    """What both models may take, bytes; the same in words; what would raise it."""
    if device == "cpu":
        return memory.free_bytes, "that are free", ""
    share = engine.gpu_memory_utilization
    if (limit := int(memory.total_bytes * share)) <= memory.free_bytes:
        return limit, f"({share:.0%} of the GPU's {_shown(memory.total_bytes)})", " raise gpu_memory_utilization,"
    words = f"({share:.0%} of the {_shown(memory.free_bytes)} that other processes leave of the GPU's"
    advice = " end what else runs on the GPU,"
    return int(memory.free_bytes * share), f"{words} {_shown(memory.total_bytes)})", advice


def _with_one_row(model: ModelConfig, device: str, counts_weights: bool = True) -> ModelMemory:
    """The model with the cache that it is given, else with one of a row and vLLM's null block."""
    context, given = context_length(model), model.kv_cache_memory_bytes
    block_bytes = BLOCK_TOKENS * kv_bytes_per_token(model, device)
    row_bytes = -(-context // BLOCK_TOKENS) * block_bytes
    cache_bytes = given or row_bytes + block_bytes
    taken = loaded_bytes(model, device) if counts_weights else 0
    if counts_weights and not taken:
        raise ModelError(f"{model.model} holds no *.safetensors, the one format that is loaded; fetch or convert it")
    return ModelMemory(taken, cache_bytes, row_bytes, context, is_given=given is not None)


def _workspace(models: list[ModelConfig], engine: EngineConfig, device: str, shared: bool) -> dict[str, int]:
    num_rows, lengths = engine.max_num_seqs, [context_length(model) for model in models]
    steps = [(model, batch_tokens(engine, length)) for model, length in zip(models, lengths, strict=True)]
    if shared:  # one pass over both prompts of every row
        steps = [(models[0], max(batch_tokens(engine, sum(lengths)), 2 * num_rows))]
    workspace = {
        # one pass follows the other, and torch keeps for the second what the first gave back
        "activations": max(activations_bytes(model, num_tokens, device) for model, num_tokens in steps),
        "logits": sum(logits_bytes(model, num_rows, device) for model in models),
        "mixing": mixing_bytes(num_rows, min(num_columns(model) for model in models)),
    }
    if len(models) == 1:  # the other one's are taken to be as large
        workspace["logits"] *= 2
        workspace["the other model's head"] = head_bytes(models[0], device)
    if device != "cpu":
        workspace["CUDA graphs"] = GRAPHS_BYTES * len(steps)
    return workspace


def device_memory(device: str, number: int = 0) -> DeviceMemory:
    """Of a GPU, as this process counts them, or of a CPU's machine, where what the page cache would give back is free.

    Of another GPU than the first, on which no logits are mixed, all counts as free.
    """
    if device == "cpu":
        import psutil

        machine = psutil.virtual_memory()
        return DeviceMemory(int(machine.total), int(machine.available))
    import torch

    if number != 0:  # a worker's: to ask what is free there would take some hundred MB of it
        total = int(torch.cuda.get_device_properties(number).total_memory)
        return DeviceMemory(total, total)
    free, total = torch.cuda.mem_get_info(number)
    kept = torch.cuda.memory_reserved(number) - torch.cuda.memory_allocated(number)  # torch's, for the next sampler
    return DeviceMemory(total, free + kept)


def context_length(model: ModelConfig) -> int:
    """The model's context, tokens: as configured, else its own."""
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
    """Tokens that a step may hold: a whole prompt, for none is split, with a token for every row."""
    return max(engine.max_num_batched_tokens, max_model_len, engine.max_num_seqs)


def check_max_tokens(max_tokens: int, context: int) -> None:
    """Raises CapacityError when no prompt fits beside `max_tokens` in a context of so many tokens."""
    if max_tokens >= context:
        raise CapacityError(
            f"max_tokens {max_tokens} leaves no room for a prompt in a context of {context} tokens; lower max_tokens"
        )


def _shown(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / MIB:.1f} MiB"
