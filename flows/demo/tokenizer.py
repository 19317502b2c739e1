"""The byte-level BPE tokenizer of both demo models.

It has 256 byte tokens and some 180 merges, so every UTF-8 text round-trips; digits are never merged, so that a model
reads a number digit by digit.
"""

import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from flows.demo.problems import STYLES, generate_problems, in_own_words, prompt

END = "<|endoftext|>"
VOCAB_SIZE = 440
# A system message, then "Q: …" and "A: …" lines as in training; a hint is part of the user's turn.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content + '\\n' }}"
    "{% elif message.role == 'user' %}{{ 'Q: ' + message.content + '\\n' }}"
    "{% else %}{{ 'A: ' + message.content + '" + END + "\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'A:' }}{% endif %}"
)


def _worded(answer: str) -> str:
    """Return the answer in both models' styles."""
    rng = random.Random(answer)
    return " ".join(in_own_words(answer, style, rng) for style in STYLES)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Learn the merges from training problems, deterministically.

    `<|endoftext|>` is EOS and padding; there is no BOS.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    problems = generate_problems(4000, seed=0, split="train")
    tokenizer.train_from_iterator(
        (f"{prompt(p['question'], p['answer'])} {_worded(p['answer'])}" for p in problems), trainer
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=END,
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )
