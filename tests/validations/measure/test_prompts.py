"""Checks of prompts: the question and the reference in them, their position, their origin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from sampling.prompts.templates import Message, PromptTemplate
from tasks.config import PromptConfig
from tasks.run.dataset_metadata import _turn
from tests.tiny import byte_tokenizer
from tests.validations.measure.test_leaks import num_leaks
from tests.validations.tables import facts, made_row, made_rows, to_table
from validations.measure.metadata import DatasetMetadata, Turn
from validations.measure.prompts import judge_prompts

Row = dict[str, Any]


# Chat templates in the shapes of real ones.
CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_3 = (
    "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "<s>{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if m['role'] == 'user' %}[INST] {% if loop.first %}{{ system }}{% endif %}"
    "{{ m['content'] }} [/INST]{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}"
)
MISTRAL_7 = (
    "<s>{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'system' %}[SYSTEM_PROMPT] {{ m['content'] }}[/SYSTEM_PROMPT]"
    "{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}"
)
DEMO = (
    "{% for m in messages %}{% if m['role'] == 'user' %}Q: {{ m['content'] }}\nA:{% else %} {{ m['content'] }}\n"
    "{% endif %}{% endfor %}"
)
SPECIAL = {
    "ChatML": (CHATML, ("<|im_start|>", "<|im_end|>")),
    "Llama 3": (LLAMA_3, ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    "Mistral": (MISTRAL, ("<s>", "</s>", "[INST]", "[/INST]")),
    "Mistral 7": (MISTRAL_7, ("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")),
    "demo": (DEMO, ()),
}
QUESTION = "What is 12 plus 30?"
HISTORY = ({"role": "user", "content": "Hello there"}, {"role": "assistant", "content": "Hello, ask me."})


class Chat:
    """A tokenizer with one of the chat templates, and its user turn."""

    def __init__(self, shape: str) -> None:
        template, special = SPECIAL[shape]
        self.tokenizer = byte_tokenizer(extra=special)
        self.tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
        self.tokenizer.chat_template = template
        turn = _turn(self.tokenizer, PromptConfig(style="chat", template="{{ question }}"))
        assert turn is not None
        self.turn = Turn(**turn)

    def render(
        self, question: str, template: str = "{{ question }}", history: Sequence[Message] = (), **rest: Any
    ) -> str:
        prompt = PromptTemplate(self.tokenizer, style="chat", template=template, system=rest.pop("system", None))
        return prompt.prompt({"question": question, **rest}, history).text

    def carries(self, prompt: str, question: str) -> bool:
        """Whether the gate finds the question in both prompts, which are one here."""
        row = made_row(0) | {"theta_prompt": prompt, "teacher_prompt": prompt, "messages": []}
        row["example"] = {"question": question, "answer": None, "solution": None, "final_answer": None}
        found = judge_prompts(to_table([row]), DatasetMetadata(theta_turn=self.turn, teacher_turn=self.turn)).question
        assert found is not None
        return bool(found[0])


@pytest.fixture(scope="module", params=SPECIAL)
def chat(request: pytest.FixtureRequest) -> Chat:
    return Chat(request.param)


def test_the_turn_probe() -> None:
    assert Chat("ChatML").turn == Turn("<|im_end|>\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")
    assert Chat("Llama 3").turn.before.endswith("<|start_header_id|>user<|end_header_id|>\n\n")
    assert Chat("Mistral").turn == Turn("s>[INST] ", " [/INST]")  # behind BOS, or behind EOS
    assert Chat("Mistral 7").turn == Turn("[INST] ", " [/INST]")  # behind a system message too
    assert Chat("demo").turn == Turn("Q: ", "\nA:")


@pytest.mark.parametrize(
    ("template", "history", "system"),
    [
        ("{{ question }}", (), None),
        ("{{ question }}", HISTORY, "You solve sums. Q: is a question, A: an answer."),
        ("Solve this:\n{{ question }}\nThink step by step.", HISTORY * 3, None),
        ("{{ question | trim }}", (), "You solve sums. Q: is a question, A: an answer."),
    ],
)
def test_the_question_in_the_last_user_turn_is_found(
    chat: Chat, template: str, history: tuple[Message, ...], system: str | None
) -> None:
    for question in (
        QUESTION,
        f"\n  {QUESTION}\n\n",
        "Q: spelt like a turn? Q: again",
        "Q: 1+1\nA: 2\nQ: 2+2\nA:",
        "FAQ: [INST] what [/INST] <|im_start|>user\nis it<|im_end|>\n<|im_start|>assistant\n",
        "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nwhat?<|begin_of_text|></s><s>",
        "这是什么？ π ≠ 3 🙂",
        "Q",
        "a",
        "\x00 control",
    ):
        assert chat.carries(chat.render(question, template, history, system=system), question), question


def test_the_question_elsewhere_is_not(chat: Chat) -> None:
    for history in (
        ({"role": "user", "content": QUESTION}, HISTORY[1]),
        (HISTORY[0], {"role": "assistant", "content": f"You mean: {QUESTION}"}),
        (*HISTORY, {"role": "user", "content": QUESTION}, HISTORY[1]),
    ):
        assert not chat.carries(chat.render(QUESTION, "Go on.", history), QUESTION), history
    assert not chat.carries(chat.render(QUESTION, "Go on."), QUESTION)
    assert not chat.carries(chat.render(QUESTION, "Go on.") + f"So, {QUESTION}", QUESTION)  # a prefill
    if chat.turn.before != "s>[INST] ":  # there the system message is part of the user's turn
        assert not chat.carries(chat.render(QUESTION, "Go on.", system=f"Answer: {QUESTION}"), QUESTION)
    bare = chat.tokenizer.apply_chat_template([{"role": "user", "content": QUESTION}], tokenize=False)
    if chat.turn.after not in bare:
        assert not chat.carries(bare, QUESTION)  # no generation prompt: no turn has ended
    assert not chat.carries(QUESTION, QUESTION)
    assert not chat.carries(chat.render("x"), "")


def test_a_reference_that_spells_a_turn_hides_no_question(chat: Chat) -> None:
    """The teacher's turn holds the reference after the question."""
    solution = "Q: what is it? <|im_start|>user\n[INST] It is 42"
    prompt = chat.render(QUESTION, "{{ question }}\nReference: {{ solution }}", solution=solution)
    assert chat.carries(prompt, QUESTION)


def test_a_template_may_write_headings_between_the_paragraphs_of_a_question() -> None:
    """Alpaca's question is its instruction, an empty line, its input."""
    rows = made_rows(3)
    for row, order in zip(rows, ((0, 1), (1, 0), (0, 0)), strict=True):
        parts = ["Translate to French.", "Good morning"]
        row["example"]["question"] = "\n\n".join(parts)
        first, second = (parts[index] for index in order)
        row["theta_prompt"] = f"### Instruction:\n{first}\n\n### Input:\n{second}\n\n### Response:\n"
        row["teacher_prompt"] = "Reference: Bonjour\n\n" + row["theta_prompt"]
    found = judge_prompts(to_table(rows), DatasetMetadata()).question
    assert found is not None
    assert found.tolist() == [True, False, False]


def test_without_turns_the_whole_prompt_counts() -> None:
    rows = made_rows(2)
    rows[1]["theta_prompt"] = "Something else"
    found = judge_prompts(to_table(rows), DatasetMetadata()).question
    assert found is not None
    assert found.tolist() == [True, False]


def test_chance_is_chance_also_where_the_question_is_not_spelt_to_the_letter() -> None:
    """A question that was trimmed, or whose special token was split, leaves the same frame as every other."""
    chat = Chat("ChatML")
    rows = []
    for i, question in enumerate(["What is it?", "What is it?\n\n", "What does <|im_end|> do?", "And  that?"]):
        prompt = chat.render(question.strip(), "In 3 steps: {{ question }}")
        row = made_row(i) | {"theta_prompt": prompt, "teacher_prompt": prompt, "messages": []}
        row["example"] = {"question": question, "answer": None, "solution": None, "final_answer": "43"[i % 2]}
        rows.append(row)
    metrics = judge_prompts(to_table(rows), DatasetMetadata())
    assert metrics.frames is not None
    assert len(set(metrics.frames.tolist())) == 1
    assert num_leaks(metrics) == 0


def test_references_are_shown_to_the_teacher() -> None:
    """In any white space, script, or neighbouring letters."""
    shown = [
        ("3", "x\nIt is 3.", True), ("a\nb", "ref: a\nb", True), ("12  km", "is 12  km", True), ("3", "is 13", False),
        ("东京", "答案是东京。", True), (" 7\n", "7", True), ("yes", "yesterday", False), ("3", " ", True),
    ]  # fmt: skip
    rows = []
    for i, (reference, prompt, _) in enumerate(shown):
        row = made_row(i) | {"teacher_prompt": prompt}
        row["example"] = {"question": "q", "answer": None, "solution": "", "final_answer": reference}
        rows.append(row)
    metrics = judge_prompts(to_table(rows), DatasetMetadata())
    assert metrics.carried is not None
    assert metrics.carried.tolist() == [found for _, _, found in shown]  # an empty prompt is another check's
    assert metrics.referenced is not None
    assert metrics.referenced.all()


def test_two_bos() -> None:
    rows = [made_row(i) for i in range(3)]
    rows[1]["theta_prompt"] = "<s>" + rows[1]["theta_prompt"]
    rows[2]["teacher_prompt"] = "<s> <s>"
    known = facts()
    metrics = judge_prompts(to_table(rows), known)
    assert metrics.theta_one_bos is not None
    assert metrics.teacher_one_bos is not None
    assert (metrics.theta_one_bos.tolist(), metrics.teacher_one_bos.tolist()) == ([True, False, True], [True] * 3)
    assert known.vocabulary is not None
    without = replace(known, vocabulary=replace(known.vocabulary, theta_bos=None, teacher_bos=""))
    metrics = judge_prompts(to_table(rows), without)
    assert metrics.theta_one_bos is not None
    assert metrics.theta_one_bos.all()


def test_what_is_lacking_is_not_judged() -> None:
    table = to_table(made_rows(3))
    metrics = judge_prompts(table.drop_columns(["example"]), facts())
    assert metrics.theta_not_empty is not None
    assert (metrics.question, metrics.frames) == (None, None)
    metrics = judge_prompts(table.drop_columns(["theta_prompt"]), facts())
    assert (metrics.theta_not_empty, metrics.question) == (None, None)
    rows = made_rows(3)
    rows[0]["example"], rows[1]["messages"], rows[2]["theta_prompt"] = None, None, None
    metrics = judge_prompts(to_table(rows), facts())
    assert metrics.question is not None
    assert metrics.question.tolist() == [False, True, True]
    assert num_leaks(metrics) == 0
    assert num_leaks(judge_prompts(to_table([]), facts())) == 0
