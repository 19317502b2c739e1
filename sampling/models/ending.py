"""The ids that end a completion of a pair of models: one event, however many ids each model has for it."""

from __future__ import annotations

from transformers import GenerationConfig, PreTrainedTokenizerBase

from sampling.config import ModelConfig
from sampling.errors import ModelError
from sampling.models.folder import load_config, model_folder
from sampling.processes.errors import first_line
from sampling.prompts.templates import Prompt, PromptTemplate, Row

ASKED, ANSWERED, AGAIN = (f"\ue000{name}\ue001" for name in ("asked", "answered", "again"))


def ending_ids(
    theta: ModelConfig,
    teacher: ModelConfig,
    tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase],
    num_ids: int,
) -> tuple[int, ...]:
    """Return every id that ends a completion; the first stands for all of them, theta's own if it has one.

    `tokenizers`: theta's and the teacher's. `num_ids`: ids that both models know; the first id is one of them.
    """
    own, teachers = (
        model_ending_ids(model, tokenizer) for model, tokenizer in zip((theta, teacher), tokenizers, strict=True)
    )
    both = dict.fromkeys((*own, *teachers))
    return tuple(sorted(both, key=lambda token_id: token_id >= num_ids))  # stable: theta's own stay first


def model_ending_ids(model: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the ids that end a model's answer, its own first.

    They are those of generation_config.json, of config.json and of the tokenizer, and what ends a turn in its chat
    template: a base model that was fine-tuned to chat often names the base's id alone.
    """
    generation = None
    if (model_folder(model) / "generation_config.json").is_file():
        try:
            generation = GenerationConfig.from_pretrained(model_folder(model)).eos_token_id
        except Exception as error:  # OSError, ValueError, TypeError, … for the same cause
            raise ModelError(
                f"{model.model} has a generation_config.json that cannot be read: {first_line(error)}"
            ) from error
    configured = getattr(load_config(model), "eos_token_id", None)
    found: list[object] = []
    for ids in (generation, configured, tokenizer.eos_token_id, _turn_end(tokenizer)):
        found += ids if isinstance(ids, list | tuple) else [ids]
    if strange := [token_id for token_id in found if not isinstance(token_id, int | None)]:
        raise ModelError(f"{model.model} names {strange[0]!r} as an eos_token_id, which is no id; mend its config")
    return tuple(dict.fromkeys(token_id for token_id in found if isinstance(token_id, int)))


def _turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the special token that the chat template writes right behind an answer, None without one."""
    if not tokenizer.chat_template:
        return None
    template = PromptTemplate(tokenizer, style="chat", template="{{ text }}", name="the probe of the chat template")
    history = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED}]
    (prompt,) = template.prompts([Row({"text": AGAIN}, history)])
    if not isinstance(prompt, Prompt):  # it accepts no such conversation
        return None
    behind = prompt.text.partition(ANSWERED)[2].partition(AGAIN)[0].lstrip()
    special = template.encoder.special.ids
    return next((token_id for token_id, text in special.items() if text and behind.startswith(text)), None)
