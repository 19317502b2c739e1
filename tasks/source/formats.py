"""The adapters of the known dataset formats: conversion of a row to an `Example`, with default prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.config import PromptConfig, PromptsConfig
from tasks.source.conversations import read_conversation
from tasks.source.example import REFERENCE_FIELDS, Example, identifier, is_filled, reference_field, text_field
from validations.measure import answers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = Mapping[str, Any]

_HINT = "{{ question }}\nHint: REFERENCE"  # the prompt that the demo's teacher was trained on
_GUIDANCE = (
    "{{ question }}\n\nFor your guidance, here is a reference answer:\n\nREFERENCE\n\n"
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
    reference: str = "{{ answer }}"  # its expression in the teacher's default template
    guidance: str = _HINT  # the teacher's default chat template
    is_conversational: bool = False

    @property
    def hidden_fields(self) -> frozenset[str]:
        """Return the fields that hold the reference, which theta's template must not name."""
        return REFERENCE_FIELDS | {identifier(column) for column in self.reference_columns}

    def default_prompts(
        self,
        theta_tokenizer: PreTrainedTokenizerBase,
        teacher_tokenizer: PreTrainedTokenizerBase,
        *,
        has_reference: bool,
    ) -> PromptsConfig:
        """Return the prompts to use if the configuration sets none.

        A model without a chat template gets a plain prompt; without a reference, both models get the same prompt.
        """
        return PromptsConfig(
            theta=self._default_prompt(theta_tokenizer, guided=False),
            teacher=self._default_prompt(teacher_tokenizer, guided=has_reference),
        )

    def _default_prompt(self, tokenizer: PreTrainedTokenizerBase, *, guided: bool) -> PromptConfig:
        if tokenizer.chat_template:
            template = self.guidance.replace("REFERENCE", self.reference) if guided else "{{ question }}"
            return PromptConfig(style="chat", template=template)
        earlier = _EARLIER_TURNS if self.is_conversational else ""
        hint = f"\nHint: {self.reference}" if guided else ""
        return PromptConfig(style="plain", template=f"{earlier}Q: {{{{ question }}}}{hint}\nA:")


def after_hashes(solution: str) -> str | None:
    """Return the text after the last `####` (GSM8K), None without one."""
    _, found, final = solution.rpartition("####")
    return final.strip() or None if found else None


def _gsm8k(row: Row) -> Example:
    answer = reference_field(row, "answer")
    return Example(text_field(row, "question"), answer, final_answer=after_hashes(answer))


def _question_answer(row: Row) -> Example:
    answer = reference_field(row, "answer")
    return Example(text_field(row, "question"), answer, final_answer=answer)


def _math(row: Row) -> Example:
    r"""A row may lack the solution (DeepScaleR) or the separate answer (MATH: in the last \boxed), but not both."""
    question = text_field(row, "problem")
    solution = text_field(row, "solution") if is_filled(row, "solution") else None
    if solution is None or is_filled(row, "answer"):
        answer = reference_field(row, "answer" if "answer" in row else "solution")
        return Example(question, answer, solution, final_answer=answer)
    return Example(question, solution, solution, final_answer=answers.reference_answer(solution, is_solution=True))


def _alpaca(row: Row) -> Example:
    question = text_field(row, "instruction")
    if is_filled(row, "input"):
        question += "\n\n" + text_field(row, "input")
    return Example(question, reference_field(row, "output"))


def _prompt_completion(row: Row) -> Example:
    if isinstance(row.get("prompt"), list):  # TRL's conversational format
        return read_conversation(row, "prompt", "completion")
    return Example(text_field(row, "prompt"), reference_field(row, "completion"))


# A column that holds the reference in one format may also occur in another (NuminaMath has problem, solution and
# messages), so all of them are hidden from theta in every format.
_REFERENCES = frozenset({"answer", "solution", "output", "completion", "conversations", "messages"})


def _adapter(name: str, example: Callable[[Row], Example], *columns: str, **settings: Any) -> Adapter:
    alternatives = tuple(frozenset(names.split()) for names in columns)
    return Adapter(name, example, alternatives, _REFERENCES, **settings)


# In the order of recognition: the most specific columns first.
_CHAT: dict[str, Any] = {"guidance": _GUIDANCE, "is_conversational": True}
KNOWN_ADAPTERS = (
    _adapter("gsm8k", _gsm8k, "question answer"),
    _adapter("question_answer", _question_answer, "question answer"),
    _adapter("math", _math, "problem solution", "problem answer", reference="{{ solution | default(answer, true) }}"),
    _adapter("alpaca", _alpaca, "instruction output", guidance=_GUIDANCE),
    _adapter("sharegpt", lambda row: read_conversation(row, "conversations"), "conversations", **_CHAT),
    _adapter("messages", lambda row: read_conversation(row, "messages"), "messages", **_CHAT),
    _adapter("prompt_completion", _prompt_completion, "prompt completion", **_CHAT),
    _adapter("text", lambda row: Example(text_field(row, "text")), "text"),
)
