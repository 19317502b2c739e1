"""Two models loaded into this process, ready for lockstep."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from sampling.config import EngineConfig, ModelConfig
from sampling.engine import LockstepEngine
from sampling.memory import context_length, plan_memory
from sampling.models import eos_ids, weights_bytes
from sampling.vllm_engine import VllmEngine
from sampling.vllm_options import device_type, limit_threads
from sampling.vocabulary import check_vocabularies, load_tokenizer

Tokenizers = tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]


def load(
    theta: ModelConfig, teacher: ModelConfig, engine: EngineConfig
) -> tuple[LockstepEngine, Tokenizers, frozenset[int]]:
    """The engine, theta's tokenizer with the teacher's, every id that ends a completion."""
    tokenizers = load_tokenizer(theta), load_tokenizer(teacher)
    num_ids = check_vocabularies(*tokenizers)
    ending = eos_ids(theta) | eos_ids(teacher)
    limit_threads(weights_bytes(theta) + weights_bytes(teacher))
    memory = plan_memory(theta, teacher, engine, device_type())
    theta_engine = VllmEngine(theta, engine, context_length(theta), memory.theta_bytes)
    try:
        teacher_engine = VllmEngine(teacher, engine, context_length(teacher), memory.teacher_bytes)
    except BaseException:
        theta_engine.close()
        raise
    return LockstepEngine(theta_engine, teacher_engine, num_ids, engine.max_num_seqs), tokenizers, ending
