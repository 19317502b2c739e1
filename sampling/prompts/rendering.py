"""The rendering of one model's prompts from rows, by its templates.

It runs in a process of its own (`sampling.prompts.renderer`): chat templates come from strangers.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jinja2
from jinja2.meta import find_undeclared_variables

from sampling.errors import RowError, TemplateError
from sampling.prompts.sandbox import SANDBOX, Null
from sampling.prompts.special_tokens import ForgedTokenError, SpecialTexts

Message = dict[str, Any]  # {"role": "system" | "user" | "assistant" | …, "content": text}
Style = Literal["chat", "plain"]

NONCE = secrets.token_hex(8)  # no row can spell a placeholder of a template's special token
MARKER = f"\ue000{NONCE}\ue001"  # in the place of a row's text
PLACEHOLDER = re.compile(rf"\ue000{NONCE}\d+\ue001")
KEPT = frozenset({"role", "type", "id", "tool_call_id"})  # what chat templates branch on, where it is one word
NUM_SHAPES = 64  # of conversations, whose special tokens are kept


class MissingFieldError(RowError):
    """A row that lacks a field of its template."""

    reason = "missing_field"


class RenderError(RowError):
    """A row that its template, or the model's chat template, fails on."""

    reason = "render_failed"


class RenderLimitError(RenderError):
    """A row whose prompt takes more time, memory or text than `bounds` allows."""

    reason = "render_limit"


class UnusedToolsError(RenderError):
    """A row with tools, for a chat template that reads none."""

    reason = "unused_tools"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What one model's prompts are made by: its templates, the chat template's variables, the bounds."""

    name: str
    style: Style
    template: str
    system: str | None
    chat: str | None  # the chat template, and the one for rows with tools
    tool_chat: str | None
    variables: tuple[tuple[str, Any], ...]
    special: tuple[str, ...]  # special tokens, which row text must not spell
    prompt_chars: int
    render_s: float
    render_bytes: int


class Row(NamedTuple):
    """What a prompt is rendered from."""

    fields: Mapping[str, Any]
    history: Sequence[Message] = ()  # a chat's earlier turns; a plain template reads them as a field, or not at all
    tools: Sequence[dict[str, Any]] = ()  # JSON schemas of functions, for the chat template


class Rendered(NamedTuple):
    """A rendered prompt."""

    text: str
    messages: list[Message]  # of the chat style, the turns up to the answer, with what the template begins that with


class Names(NamedTuple):
    """What templates read: the row's fields, and the chat template's variables."""

    fields: frozenset[str]
    variables: frozenset[str]


class Rendering:
    """The compiled templates of one model's prompts."""

    def __init__(self, recipe: Recipe) -> None:
        """Compile them. Raises TemplateError."""
        self.recipe = recipe
        self._special = SpecialTexts(recipe.special)
        self._placeholders = {token: f"\ue000{NONCE}{i}\ue001" for i, token in enumerate(self._special.texts)}
        self._names = {placeholder: token for token, placeholder in self._placeholders.items()}
        self._tokens: dict[str, list[str]] = {}  # by a conversation of markers: the special tokens of its prompt
        self._template, fields = self._compile(recipe.template, recipe.name)
        self._system = None
        if recipe.system is not None:
            self._system, more = self._compile(recipe.system, f"{recipe.name.removesuffix('.template')}.system")
            fields |= more
        variables = _variables(recipe.chat) | _variables(recipe.tool_chat)
        self.names = Names(frozenset(fields), frozenset(variables))
        self._opening, self._prefill = self._generation_prompt()

    def _compile(self, source: str, name: str) -> tuple[jinja2.Template, set[str]]:
        """Return a template with the names that it reads; its own special tokens are placeholders."""
        for token, placeholder in self._placeholders.items():
            source = source.replace(token, placeholder)
        try:
            return SANDBOX.from_string(source), find_undeclared_variables(SANDBOX.parse(source))
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"{name} is no Jinja template: line {error.lineno}: {error.message}") from error

    def render(self, row: Row) -> Rendered:
        """Return a row's prompt. Raises MissingFieldError, RenderError."""
        content = self._filled(self._template, row.fields)
        if self.recipe.style == "plain":
            text = self._restore(content)
            self._check_tokens(text, [self._names[found] for found in PLACEHOLDER.findall(content)])
            return Rendered(text, [])
        messages: list[Message] = self._special.neutralise(list(row.history))
        if self._system is not None:
            system = self._filled(self._system, row.fields)
            others = [turn for turn in messages if turn["role"] != "system"]
            messages = [{"role": "system", "content": system}, *others] if system.strip() else others
        messages.append({"role": "user", "content": content})
        if row.tools and "tools" not in self.names.variables:
            raise UnusedToolsError(f"{self.recipe.name}: the row has tools, but the model's chat template reads none")
        try:
            tools = self._special.neutralise(list(row.tools))
            text = self._restore(self._chat(messages, tools))
            tokens = self._own_tokens(messages, tools)
        except MemoryError:
            raise
        except Exception as error:  # a chat template may raise any error, also on purpose
            raise RenderError(
                f"{self.recipe.name}: the model's chat template refuses the row: {one_line(error)}"
            ) from error
        self._check_length(len(text))
        self._check_text(text)
        self._check_tokens(text, tokens)
        turns = [{**turn, "content": self._restore(turn["content"])} for turn in messages]
        if self._prefill and text.endswith(self._opening):
            turns.append({"role": "assistant", "content": self._prefill})
        return Rendered(text, turns)

    def _filled(self, template: jinja2.Template, fields: Mapping[str, Any]) -> str:
        """Return a rendered template of ours, its own special tokens still placeholders."""
        name = self.recipe.name
        values = {key: Null(name=key) if value is None else value for key, value in fields.items()}
        chunks: list[str] = []
        num_chars = 0
        try:
            for chunk in template.generate(values):
                chunks.append(chunk)
                num_chars += len(chunk)
                self._check_length(num_chars)
        except jinja2.UndefinedError as error:
            raise MissingFieldError(f"{name} needs a field that is missing or null: {error}") from error
        except (RowError, MemoryError):
            raise
        except Exception as error:  # any error: TypeError, SecurityError, ZeroDivisionError
            raise RenderError(f"{name} cannot be rendered: {type(error).__name__}: {one_line(error)}") from error
        text: str = self._special.neutralise("".join(chunks))
        self._check_text(text)
        return text

    def _chat(self, messages: list[Message], tools: Sequence[Any] = (), answer: bool = True) -> str:
        """Return a conversation as `tokenizer.apply_chat_template` renders it, with a generation prompt if `answer`."""
        from transformers.utils.chat_template_utils import render_jinja_template

        (text,), _ = render_jinja_template(
            [messages],
            tools=list(tools) or None,
            chat_template=self.recipe.tool_chat if tools else self.recipe.chat,
            add_generation_prompt=answer,
            **dict(self.recipe.variables),
        )
        assert isinstance(text, str)
        return text

    def _own_tokens(self, messages: list[Message], tools: list[Any]) -> list[str]:
        """Return the special tokens of the prompt of such a conversation, in order, with markers for the row's text."""
        marked = _marked(messages), _marked(tools)
        shape = repr(marked)
        if shape not in self._tokens:
            if len(self._tokens) == NUM_SHAPES:
                self._tokens.clear()
            self._tokens[shape] = self._special.spelled(self._restore(self._chat(*marked)))
        return self._tokens[shape]

    def _check_tokens(self, text: str, tokens: list[str]) -> None:
        if (spelled := self._special.spelled(text)) != tokens:
            token = next((token for token in spelled if spelled.count(token) > tokens.count(token)), *tokens[:1])
            raise ForgedTokenError(
                f"{self.recipe.name}, or the model's template, reads the row's text as the special token {token!r};"
                " remove what looks like it"
            )

    def _generation_prompt(self) -> tuple[str, str]:
        """Return how the chat template opens an answer, and the part of it that is no mark of the assistant's turn.

        That part (`<think>`) stands where the answer's own text stands in a turn that is over. Found by rendering
        markers: "" where a template refuses them, or writes such turns otherwise.
        """
        if self.recipe.style == "plain":
            return "", ""
        asked, answered = {"role": "user", "content": f"q{NONCE}"}, {"role": "assistant", "content": f"a{NONCE}"}
        try:
            opened, closed = self._chat([asked]), self._chat([asked], answer=False)
            head, found, _ = self._chat([asked, answered, asked], answer=False).partition(f"a{NONCE}")
        except MemoryError:
            raise
        except Exception:  # a chat template may raise any error
            return "", ""
        prefill = opened[len(head) :] if found and opened.startswith(head) else ""
        if not opened.startswith(closed) or self._special.spelled(prefill):
            return "", ""
        return opened[len(closed) :], prefill

    def _check_length(self, num_chars: int) -> None:
        if num_chars > (most := self.recipe.prompt_chars):
            raise RenderLimitError(f"{self.recipe.name} renders to more than bounds.prompt_chars ({most}) characters")

    def _check_text(self, text: str) -> None:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            character = ascii(text[error.start])
            raise RenderError(f"{self.recipe.name} renders to {character}, which is no character") from error

    def _restore(self, text: str) -> str:
        if "\ue000" in text:
            for token, placeholder in self._placeholders.items():
                text = text.replace(placeholder, token)
        return text


def _marked(value: Any) -> Any:
    """Return the value with a marker for every text of a row in it, around the placeholders of our own templates."""
    if isinstance(value, str):
        return MARKER + "".join(found + MARKER for found in PLACEHOLDER.findall(value)) if value.strip() else value
    if isinstance(value, dict):
        return {
            key if key.isidentifier() else f"{MARKER}{i}": item if key in KEPT and _is_word(item) else _marked(item)
            for i, (key, item) in enumerate(value.items())
        }
    return [_marked(item) for item in value] if isinstance(value, list | tuple) else value


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and value.replace("_", "").isalnum()


def _variables(chat: str | None) -> set[str]:
    """Return the names that a chat template reads. Raises TemplateError where it is none."""
    if chat is None:
        return set()
    from transformers.utils.chat_template_utils import _compile_jinja_template

    try:
        return find_undeclared_variables(_compile_jinja_template(chat).environment.parse(chat))
    except jinja2.TemplateSyntaxError as error:
        message = f"the model's chat template is no Jinja template: line {error.lineno}: {error.message}"
        raise TemplateError(message) from error


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
