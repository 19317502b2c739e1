"""The loader of a model pair for the lockstep engine."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from transformers import PreTrainedTokenizerBase

from sampling.config import EngineConfig, MixtureConfig, ModelConfig, SamplingConfig
from sampling.engine.lockstep import LockstepEngine
from sampling.engine.model import Model
from sampling.engine.shared_weights import SharedWeightsEngine
from sampling.mixture.kernel.launch import supports
from sampling.mixture.kernel.probe import disagreement
from sampling.models.ending import ending_ids
from sampling.models.folder import model_folder, weights_bytes
from sampling.models.memory import context_length
from sampling.models.vllm_options import device_type, limit_threads
from sampling.models.vocabulary import check_vocabularies, load_tokenizer
from sampling.workers.loading import LoadRequest, load_engines, plan_caches
from sampling.workers.placement import Placement, place

logger = logging.getLogger(__name__)

Tokenizers = tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]


def load(
    theta: ModelConfig, teacher: ModelConfig, engine: EngineConfig, mixture: MixtureConfig
) -> tuple[LockstepEngine, Tokenizers, tuple[int, ...]]:
    """Load both models; return the engine, theta's and the teacher's tokenizers, `ending_ids`.

    On a GPU the mixing kernel is first compared with plain torch under `mixture`'s settings.
    """
    tokenizers = load_tokenizer(theta), load_tokenizer(teacher)
    num_ids = check_vocabularies(*tokenizers)
    eos_ids = ending_ids(theta, teacher, tokenizers, num_ids)  # raises before anything is loaded
    limit_threads(weights_bytes(theta) + weights_bytes(teacher))
    device = device_type()
    if engine.async_scheduling is None:
        engine = engine.model_copy(update={"async_scheduling": device != "cpu"})
    models = _load_models(theta, teacher, engine, device)
    lockstep = LockstepEngine(
        *models,
        num_ids,
        engine.max_num_seqs,
        steps_in_flight=2 if engine.async_scheduling else 1,
        fused=device != "cpu" and _kernel_agrees(models, num_ids, mixture, len(eos_ids) > 1),
    )
    return lockstep, tokenizers, eos_ids


def _kernel_agrees(models: tuple[Model, Model], num_ids: int, mixture: MixtureConfig, has_endings: bool) -> bool:
    """Return whether the mixing kernel gives the same results as plain torch on this device.

    `has_endings`: several ids end a completion, whose merging makes 16-bit logits float32.
    """
    if not supports(mixture, SamplingConfig()):
        mixture = MixtureConfig()  # later calls may bring settings that the kernel supports
    theta = models[0]
    is_merged = has_endings and mixture.merge_endings
    dtypes = [torch.promote_types(model.dtype, torch.float32) if is_merged else model.dtype for model in models]
    wrong = disagreement(theta.device, num_ids, mixture, (dtypes[0], dtypes[1]))
    if wrong is not None:
        logger.warning("plain torch mixes, which is slower: on this device the mixing kernel gives %s", wrong)
    return wrong is None


def _load_models(theta: ModelConfig, teacher: ModelConfig, engine: EngineConfig, device: str) -> tuple[Model, Model]:
    """Load theta and the teacher; the weights only once where both are the same model."""
    lengths = context_length(theta), context_length(teacher)
    placement, shared, caches = plan_pair(theta, teacher, engine, device)
    if shared:
        # each row is two requests, and a step must be able to prefill the longest prompts of both
        num_tokens = max(engine.max_num_batched_tokens, sum(lengths))
        both = engine.model_copy(update={"max_num_seqs": 2 * engine.max_num_seqs, "max_num_batched_tokens": num_tokens})
        adapted = theta.lora is not None, teacher.lora is not None
        model = theta if adapted[0] else teacher
        (engine_of_both,) = load_engines(
            [LoadRequest("theta with the teacher", model, both, max(lengths), sum(caches), placement.theta)], device
        )
        views = SharedWeightsEngine(engine_of_both, lengths, adapted)
        return views.theta, views.teacher
    theta_engine, teacher_engine = load_engines(
        [
            LoadRequest("theta", theta, engine, lengths[0], caches[0], placement.theta),
            LoadRequest("teacher", teacher, engine, lengths[1], caches[1], placement.teacher),
        ],
        device,
    )
    return theta_engine, teacher_engine


def plan_pair(
    theta: ModelConfig,
    teacher: ModelConfig,
    engine: EngineConfig,
    device: str,
    log: Callable[[str], None] = logger.info,
) -> tuple[Placement, bool, tuple[int, int]]:
    """Return both models' GPUs, whether they share weights, and the KV cache bytes of each, without loading anything.

    `log` receives the memory plan as text. Raises ConfigurationError, CapacityError or ModelError.
    """
    shared = is_one_model(theta, teacher)
    placement = place(theta, teacher, None if device == "cpu" else torch.cuda.device_count(), shared)
    shared = shared and placement.theta == placement.teacher
    return placement, shared, plan_caches(theta, teacher, engine, placement, device, shared, log)


def is_one_model(theta: ModelConfig, teacher: ModelConfig) -> bool:
    """Return whether both are the same weights, loaded the same way; one or both may have the same LoRA adapter."""
    if type(theta) is not type(teacher) or theta.urls:
        return False
    adapters = {(model.lora, model.lora_revision) for model in (theta, teacher) if model.lora is not None}
    same = ("dtype", "quantization", "trust_remote_code", "tensor_parallel_size")
    return (
        len(adapters) <= 1
        and all(getattr(theta, name) == getattr(teacher, name) for name in same)
        and model_folder(theta).samefile(model_folder(teacher))
    )
