"""Two models loaded, into this process or into workers, ready for lockstep."""

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
from sampling.models.folder import eos_ids, model_folder, weights_bytes
from sampling.models.memory import context_length
from sampling.models.vllm_options import device_type, limit_threads
from sampling.models.vocabulary import check_vocabularies, load_tokenizer
from sampling.workers.loading import Wanted, load_engines, plan_caches
from sampling.workers.placement import Placement, place

logger = logging.getLogger(__name__)

Tokenizers = tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]


def load(
    theta: ModelConfig, teacher: ModelConfig, engine: EngineConfig, mixture: MixtureConfig
) -> tuple[LockstepEngine, Tokenizers, frozenset[int]]:
    """The engine, theta's tokenizer with the teacher's, every id that ends a completion.

    On a GPU the mixing kernel is tried with `mixture`'s settings.
    """
    tokenizers = load_tokenizer(theta), load_tokenizer(teacher)
    num_ids = check_vocabularies(*tokenizers)
    ending = eos_ids(theta) | eos_ids(teacher)
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
        fused=device != "cpu" and _kernel_agrees(models, num_ids, mixture),
    )
    return lockstep, tokenizers, ending


def _kernel_agrees(models: tuple[Model, Model], num_ids: int, mixture: MixtureConfig) -> bool:
    """Whether mixing may be the kernel's: on this device it does what plain torch does."""
    if not supports(mixture, SamplingConfig()):
        mixture = MixtureConfig()  # another call's settings may be ones that it takes
    theta, teacher = models
    wrong = disagreement(theta.device, num_ids, mixture, (theta.dtype, teacher.dtype))
    if wrong is not None:
        logger.warning("plain torch mixes, which is slower: on this device the mixing kernel gives %s", wrong)
    return wrong is None


def _load_models(theta: ModelConfig, teacher: ModelConfig, engine: EngineConfig, device: str) -> tuple[Model, Model]:
    """Theta, then the teacher; one copy of the weights where they are one model."""
    lengths = context_length(theta), context_length(teacher)
    placement, shared, caches = plan_pair(theta, teacher, engine, device)
    if shared:
        # each row is two requests there, and a step must be able to prefill the longest of both
        num_tokens = max(engine.max_num_batched_tokens, sum(lengths))
        both = engine.model_copy(update={"max_num_seqs": 2 * engine.max_num_seqs, "max_num_batched_tokens": num_tokens})
        adapted = theta.lora is not None, teacher.lora is not None
        model = theta if adapted[0] else teacher
        (engine_of_both,) = load_engines(
            [Wanted("theta with the teacher", model, both, max(lengths), sum(caches), placement.theta)], device
        )
        copy = SharedWeightsEngine(engine_of_both, lengths, adapted)
        return copy.theta, copy.teacher
    theta_engine, teacher_engine = load_engines(
        [
            Wanted("theta", theta, engine, lengths[0], caches[0], placement.theta),
            Wanted("teacher", teacher, engine, lengths[1], caches[1], placement.teacher),
        ],
        device,
    )
    return theta_engine, teacher_engine


def plan_pair(
    theta: ModelConfig,
    teacher: ModelConfig,
    engine: EngineConfig,
    device: str,
    say: Callable[[str], None] = logger.info,
) -> tuple[Placement, bool, tuple[int, int]]:
    """Where both models lie, whether they are one copy, the KV cache bytes of each; nothing is loaded.

    `say` is given the memory plan in words. Raises ConfigurationError, CapacityError or ModelError.
    """
    shared = is_one_model(theta, teacher)
    placement = place(theta, teacher, None if device == "cpu" else torch.cuda.device_count(), shared)
    shared = shared and placement.theta == placement.teacher
    return placement, shared, plan_caches(theta, teacher, engine, placement, device, shared, say)


def is_one_model(theta: ModelConfig, teacher: ModelConfig) -> bool:
    """Whether both names mean the same weights, loaded in the same way; one of them may have an adapter besides."""
    if type(theta) is not type(teacher) or theta.urls:
        return False
    adapters = {(model.lora, model.lora_revision) for model in (theta, teacher) if model.lora is not None}
    same = ("dtype", "quantization", "trust_remote_code", "tensor_parallel_size")
    return (
        len(adapters) <= 1
        and all(getattr(theta, name) == getattr(teacher, name) for name in same)
        and model_folder(theta).samefile(model_folder(teacher))
    )
