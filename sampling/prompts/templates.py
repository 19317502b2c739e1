"""A compiler of Jinja prompt templates over the fields of a row.

A template is rendered in a sandbox over the row's fields; special tokens that the row's text spells are broken up
(`sampling.prompts.special_tokens`); a chat prompt is then wrapped in the model's own chat template. All of that
happens in a process whose memory and time are bounded (`sampling.prompts.renderer`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sampling.bounds import Bounds
from sampling.errors import EmptyPromptError, RowError, TemplateError
from sampling.prompts.encoding import PromptEncoder
from sampling.prompts.renderer import RENDERER
from sampling.prompts.rendering import (
    Message,
    MissingFieldError,
    Recipe,
    Rendered,
    RenderError,
    RenderLimitError,
    Row,
    Style,
    UnusedToolsError,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "Message",
    "MissingFieldError",
    "Prompt",
    "PromptTemplate",
    "RenderError",
    "RenderLimitError",
    "Row",
    "UnusedToolsError",
]


class Prompt(NamedTuple):
    """A prompt as its model reads it."""

    text: str
    ids: list[int]
    messages: list[Message]  # of the chat style: the turns up to the answer, with what the template begins that with


class PromptTemplate:
    """A compiled template of one model's prompts."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        style: Style,
        template: str,
        system: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        hidden: Collection[str] = (),
        name: str = "the prompt",
        bounds: Bounds | None = None,
    ) -> None:
        """Compile `template` and `system`, which must not use the fields `hidden`, those of the reference answer.

        `chat_template_kwargs` are variables of the model's chat template. `name` is the template's name in error
        messages. Raises TemplateError.
        """
        if style == "chat" and not tokenizer.chat_template:
            raise TemplateError(
                f"{name} has style: chat, but the tokenizer {tokenizer.name_or_path!r} has no chat template; "
                "use style: plain"
            )
        self.name, self.style = name, style
        self.encoder = PromptEncoder(tokenizer)
        special = self.encoder.special.texts
        self.neutralise = special.neutralise  # breaks up the special tokens in row text
        bounds = bounds or Bounds()
        given = dict(chat_template_kwargs or {})
        chat = style == "chat"
        self._recipe = Recipe(
            name=name,
            style=style,
            template=template,
            system=system,
            chat=_chat_template(tokenizer, None) if chat else None,
            tool_chat=_chat_template(tokenizer, [{}]) if chat else None,
            variables=tuple({**tokenizer.special_tokens_map, **given}.items()) if chat else (),
            special=tuple(special.texts),
            prompt_chars=bounds.prompt_chars,
            render_s=bounds.render_s,
            render_bytes=bounds.render_bytes,
        )
        names = RENDERER.names(self._recipe)
        if leaked := sorted(names.fields & frozenset(hidden)):
            which = f"{name}, or the system message," if system else name
            raise TemplateError(
                f"{which} names {', '.join(map(repr, leaked))}, which holds the reference answer; only the "
                "teacher's template may show it"
            )
        if unread := sorted(given.keys() - names.variables):
            raise TemplateError(
                f"chat_template_kwargs beside {name} gives {', '.join(map(repr, unread))}, which the model's chat "
                f"template does not read; it reads {', '.join(sorted(names.variables))}"
            )
        self.fields = names.fields

    def prompts(self, rows: Sequence[Row]) -> list[Prompt | RowError]:
        """Return each row's prompt, or its error.

        A chat's turns are the system message (else the row's), the history, the rendered turn and, where the chat
        template begins the answer itself (`<think>`), an assistant's turn with that.
        """
        results = RENDERER.render(self._recipe, [self._needed(row) for row in rows])
        encoded = iter(self.encoder.encode([prompt.text for prompt in results if not isinstance(prompt, RowError)]))
        return [
            self._named(result, row) if isinstance(result, RowError) else self._prompt(result, next(encoded))
            for result, row in zip(results, rows, strict=True)
        ]

    def prompt(self, fields: Mapping[str, Any], history: Sequence[Message] = ()) -> Prompt:
        """Return one row's prompt. Raises MissingFieldError, RenderError, ForgedTokenError, EmptyPromptError."""
        (result,) = self.prompts([Row(fields, history)])
        if isinstance(result, RowError):
            raise result
        return result

    def _prompt(self, rendered: Rendered, ids: list[int] | RowError) -> Prompt | RowError:
        if isinstance(ids, RowError):
            return ids
        if not rendered.text.strip():
            return EmptyPromptError(f"{self.name} renders to an empty prompt")
        return Prompt(rendered.text, ids, rendered.messages)

    def _named(self, error: RowError, row: Row) -> RowError:
        """Return the error of a missing field with the names of those there are."""
        if not isinstance(error, MissingFieldError):
            return error
        filled = ", ".join(sorted(key for key, value in row.fields.items() if value is not None))
        return MissingFieldError(f"{error}; there are: {filled or 'none'}")

    def _needed(self, row: Row) -> Row:
        fields = {key: row.fields[key] for key in self.fields & row.fields.keys()}
        return Row(fields) if self.style == "plain" else Row(fields, row.history, row.tools)


def _chat_template(tokenizer: PreTrainedTokenizerBase, tools: list[dict[str, Any]] | None) -> str:
    try:
        return str(tokenizer.get_chat_template(tools=tools))
    except ValueError as error:  # several, none of them the default
        raise TemplateError(str(error).splitlines()[0]) from error
