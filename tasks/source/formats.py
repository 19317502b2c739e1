"""The adapters of the known dataset formats: conversion of a row to an `Example`, with default prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tasks.config import PromptConfig, PromptsConfig
from tasks.source.companions import ASKED, CHOSEN, FLAT, JUDGED, OPEN, SPOKEN, Row, Use, use_companions
from tasks.source.conversations import read_conversation
from tasks.source.example import (
    REFERENCE_FIELDS,
    BadRowError,
    Example,
    identifier,
    inner_field,
    is_filled,
    is_placeholder,
    present_field,
    reference_field,
    text_field,
)
from validations.measure.answers import reference_answer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_HINT = "\nHint: REFERENCE"  # behind the question: the prompt that the demo's teacher was trained on
_GUIDANCE = (
    "\n\nFor your guidance, here is a reference answer:\n\nREFERENCE\n\n"
    "Answer in full and in your own words; do not mention the reference."
)
_EARLIER_TURNS = (
    "{% for turn in history %}"
    "{% if turn.role == 'user' %}Q: {% elif turn.role == 'assistant' %}A: {% endif %}{{ turn.content }}\n"
    "{% endfor %}"
)


@dataclass(frozen=True, slots=True)
class Adapter:
    """One dataset format."""

    name: str
    example: Callable[[Row], Example]  # raises RowError
    columns: tuple[frozenset[str], ...] = ()  # any one of these sets identifies the format
    reference_columns: frozenset[str] = frozenset()
    used: frozenset[str] | None = None  # the columns that an example is made of; None: not known
    reference: str = "{{ answer }}"  # its expression in the teacher's default template
    guidance: str = _HINT  # what the teacher's default chat template adds to the question
    is_conversational: bool = False

    @property
    def hidden_fields(self) -> frozenset[str]:
        """Return the fields that hold the reference, which theta's template must not name."""
        columns = {identifier(column) for column in self.reference_columns}
        return REFERENCE_FIELDS | (columns - {"question", "history"})  # those two are the example's own

    def default_prompts(
        self,
        theta_tokenizer: PreTrainedTokenizerBase,
        teacher_tokenizer: PreTrainedTokenizerBase,
        *,
        has_reference: bool,
        lacks_reference: bool = False,
        has_history: bool = False,
    ) -> PromptsConfig:
        """Return the prompts to use if the configuration sets none: some rows have, or lack, a reference, or a history.

        A model without a chat template gets a plain prompt; without a reference, both models get the same prompt.
        """
        earlier = _EARLIER_TURNS if self.is_conversational or has_history else ""
        around = "{% if answer is defined %}GUIDANCE{% endif %}" if lacks_reference else "GUIDANCE"

        def prompt(tokenizer: PreTrainedTokenizerBase, guided: bool) -> PromptConfig:
            guidance = self.guidance if tokenizer.chat_template else _HINT
            guidance = around.replace("GUIDANCE", guidance.replace("REFERENCE", self.reference)) if guided else ""
            if tokenizer.chat_template:
                return PromptConfig(style="chat", template=f"{{{{ question }}}}{guidance}")
            return PromptConfig(style="plain", template=f"{earlier}Q: {{{{ question }}}}{guidance}\nA:")

        return PromptsConfig(theta=prompt(theta_tokenizer, False), teacher=prompt(teacher_tokenizer, has_reference))


def _present(row: Row, *columns: str) -> str:
    """Return the first of some columns that a row has, else the first of them all."""
    return next((column for column in columns if column in row), columns[0])


def _gsm8k(row: Row) -> Example:
    answer = reference_field(row, "answer")
    return Example(text_field(row, "question"), answer, final_answer=reference_answer(answer, is_solution=True))


def _question_answer(row: Row) -> Example:
    answer = reference_field(row, _present(row, "answer", "response"))
    return Example(text_field(row, "question"), answer, final_answer=reference_answer(answer))


def _multiple_choice(row: Row) -> Example:
    """A question with choices (texts, or ARC's texts and labels); the answer: a letter, label, index or text."""
    question = text_field(row, "question")
    column = _present(row, "choices", "options")
    choices = present_field(row, column)
    labels = choices.get("label") if isinstance(choices, Mapping) else None
    texts = choices.get("text") if isinstance(choices, Mapping) else choices
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts) or len(texts) > len(LETTERS):
        raise BadRowError("wrong_type", f"{column!r} holds no list of at most {len(LETTERS)} texts")
    if any(text not in question for text in texts):
        question += "\n\n" + "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=False))
    key = _present(row, "answer", "answerKey", "answer_index")
    answer = present_field(row, key)
    known: list[Any] = [LETTERS[: len(texts)], labels, texts] if isinstance(answer, str) else [range(len(texts))]
    index = next((list(names).index(answer) for names in known if names and answer in list(names)), None)
    if index is None or isinstance(answer, bool):
        raise BadRowError("unknown_choice", f"{key!r} is {answer!r:.100}, which is none of the {len(texts)} choices")
    return Example(question, LETTERS[index], final_answer=LETTERS[index])


def _squad(row: Row) -> Example:
    """A question on a passage (a companion); of several answers the first, none where there is no answer."""
    texts = inner_field(row, "answers.text")
    if not isinstance(texts, list):
        raise BadRowError("wrong_type", "'answers' holds no list named text")
    answer = reference_field(row, "answers.text.0") if texts else None
    return Example(text_field(row, "question"), answer, final_answer=answer and reference_answer(answer))


def _math(row: Row) -> Example:
    r"""A row may lack the solution (DeepScaleR) or the separate answer (MATH: in the last \boxed), but not both."""
    question = text_field(row, "problem")
    solution = text_field(row, "solution") if is_filled(row, "solution") else None
    if solution is not None and (not is_filled(row, "answer") or is_placeholder(str(row["answer"]))):
        is_proof = str(row.get("answer")).strip().casefold() == "proof"
        return Example(question, solution, solution, None if is_proof else reference_answer(solution, is_solution=True))
    answer = reference_field(row, "answer" if "answer" in row else "solution")
    return Example(question, answer, solution, reference_answer(answer))


def _alpaca(row: Row) -> Example:
    question = text_field(row, "instruction")
    if is_filled(row, "input"):
        question += "\n\n" + text_field(row, "input")
    return Example(question, reference_field(row, _present(row, "output", "response")))


def _prompt(row: Row) -> Example:
    """A text or turns, the last of them the question; TRL's prompt-only rows."""
    return (
        read_conversation(row, "prompt") if isinstance(row.get("prompt"), list) else Example(text_field(row, "prompt"))
    )


def _prompt_completion(row: Row) -> Example:
    completion = _present(row, "completion", "response")
    if isinstance(row.get("prompt"), list):  # TRL's conversational format
        return read_conversation(row, "prompt", completion)
    return Example(text_field(row, "prompt"), reference_field(row, completion))


def _preference(row: Row) -> Example:
    """TRL's preference rows: the chosen answer is the reference; its turns may hold the prompt's, too."""
    chosen = present_field(row, "chosen")
    if not isinstance(chosen, list):
        return Example(text_field(row, "prompt"), reference_field(row, "chosen"))
    if len(chosen) > 1 or not isinstance(row.get("prompt"), list | str):
        return read_conversation(row, "chosen")
    if isinstance(row["prompt"], str):
        row = {**row, "prompt": [{"role": "user", "content": row["prompt"]}]}
    return read_conversation(row, "prompt", "chosen")


def _verl(row: Row) -> Example:
    """verl's rows: the answer that its reward function compares, beside it a worked solution."""
    answer = reference_field(row, "reward_model.ground_truth")
    solution = text_field(row, "extra_info.answer") if is_filled(row, "extra_info.answer") else None
    return replace(_prompt(row), answer=answer, solution=solution, final_answer=reference_answer(answer))


# A column that holds the reference in one format may also occur in another (NuminaMath has problem, solution and
# messages), so all of them are hidden from theta in every format.
_REFERENCES = frozenset(
    {"answer", "answers", "answerKey", "answer_index", "solution", "output", "response", "completion"}
    | {"conversations", "messages", "chosen", "rejected", "ground_truth", "reward_model", "extra_info"}
)


def _adapter(
    name: str, convert: Callable[[Row], Example], *columns: str, companions: Mapping[str, Use] = ASKED, **settings: Any
) -> Adapter:
    alternatives = tuple(frozenset(names.split()) for names in columns)

    def example(row: Row) -> Example:
        return use_companions(convert(row), row, companions)

    used = frozenset(companions).union(*alternatives) | set(settings.pop("optional", "").split())
    return Adapter(name, example, alternatives, _REFERENCES, used=used, **settings)


# In the order of recognition: the most specific columns first.
_CHAT: dict[str, Any] = {"guidance": _GUIDANCE, "is_conversational": True}
KNOWN_ADAPTERS = (
    _adapter(
        "multiple_choice",
        _multiple_choice,
        "question choices",
        "question options",
        optional="answer answerKey answer_index",
        companions=CHOSEN,
    ),
    _adapter("squad", _squad, "context question answers"),
    _adapter("gsm8k", _gsm8k, "question answer"),
    _adapter("question_answer", _question_answer, "question answer", "question response"),
    _adapter("math", _math, "problem solution", "problem answer", reference="{{ solution | default(answer, true) }}"),
    _adapter("alpaca", _alpaca, "instruction output", "instruction response", optional="input", guidance=_GUIDANCE),
    _adapter("verl", _verl, "prompt reward_model", optional="extra_info", is_conversational=True),
    _adapter("preference", _preference, "prompt chosen rejected", "chosen rejected", **_CHAT),
    _adapter(
        "sharegpt", lambda row: read_conversation(row, "conversations"), "conversations", companions=SPOKEN, **_CHAT
    ),
    _adapter("messages", lambda row: read_conversation(row, "messages"), "messages", companions=SPOKEN, **_CHAT),
    _adapter(
        "prompt_completion", _prompt_completion, "prompt completion", "prompt response", companions=JUDGED, **_CHAT
    ),
    _adapter("prompt", _prompt, "prompt", companions=OPEN, is_conversational=True),
    _adapter("text", lambda row: Example(text_field(row, "text")), "text", companions=FLAT),
)
