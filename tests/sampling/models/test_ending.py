"""The ids that end a model's answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from sampling import ModelConfig
from sampling.errors import ModelError
from sampling.models.ending import ending_ids, model_ending_ids
from tests.tiny import byte_tokenizer

SPECIAL = ("<|im_start|>", "<|im_end|>", "</s>", "<|user|>", "<|assistant|>")
IM_END, END, USER = 257, 258, 259
# Of Qwen, Llama 2, GLM; one that names no end.
TEMPLATES = {
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        IM_END,
    ),
    "inst": (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }} </s>{% endif %}{% endfor %}",
        END,
    ),
    "roles": ("{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}<|assistant|>", USER),
    "plain": ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:", None),
    "refuses": ("{{ raise_exception('no conversation') }}", None),
}


def tokenizer(chat_template: str | None = None, eos: str = "<|endoftext|>") -> PreTrainedTokenizerFast:
    """Ids 256 to 260 are the special tokens, 261 is `<|endoftext|>`."""
    made = byte_tokenizer(SPECIAL)
    made.add_special_tokens({"additional_special_tokens": list(SPECIAL), "eos_token": eos})
    made.chat_template = chat_template
    return made


@pytest.fixture
def model(tiny_pair: tuple[Path, Path], tmp_path: Path) -> Any:
    """Make a folder with these EOS ids."""

    def make(generation: dict[str, object] | None, config: object) -> ModelConfig:
        values = json.loads((tiny_pair[0] / "config.json").read_text())
        values["eos_token_id"] = config
        (tmp_path / "config.json").write_text(json.dumps(values))
        if generation is not None:
            (tmp_path / "generation_config.json").write_text(json.dumps(generation))
        return ModelConfig(model=str(tmp_path))

    return make


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": [5, 3]}, 7, (5, 3, 7, 261)),
        ({"eos_token_id": 3}, 3, (3, 261)),
        ({}, [7, 8], (7, 8, 261)),
        (None, None, (261,)),
    ],
)
def test_the_generation_configs_come_first(
    model: Any, generation: dict[str, object] | None, config: object, expected: tuple[int, ...]
) -> None:
    assert model_ending_ids(model(generation, config), tokenizer()) == expected


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_ends_a_turn_ends_an_answer(model: Any, name: str) -> None:
    """A base model that was fine-tuned to chat, whose configurations name `<|endoftext|>` alone."""
    chat_template, ending = TEMPLATES[name]
    found = model_ending_ids(model({"eos_token_id": 261}, 261), tokenizer(chat_template))
    assert found == ((261,) if ending is None else (261, ending))


def test_thetas_own_stands_for_all(model: Any) -> None:
    theta, teacher = tokenizer(), tokenizer(TEMPLATES["chatml"][0], eos="<|im_end|>")
    config = model(None, None)
    assert ending_ids(config, config, (theta, teacher), 262) == (261, IM_END)
    assert ending_ids(config, config, (teacher, theta), 262) == (IM_END, 261)
    assert ending_ids(config, config, (theta, teacher), 261) == (IM_END, 261)  # 261 is missing in the teacher


@pytest.mark.parametrize("strange", ["</s>", 2.5, [[3]]])
def test_an_id_that_is_none(model: Any, strange: object) -> None:
    with pytest.raises(ModelError, match=r"eos_token_id|generation_config\.json") as caught:
        model_ending_ids(model({"eos_token_id": strange}, 7), tokenizer())
    assert "\n" not in str(caught.value)
