"""A compiler of Jinja prompt templates over the fields of a row.

A template is rendered in a sandbox over the row's fields; special tokens that the row's text spells are broken up;
a chat prompt is then wrapped in the model's own chat template. `sampling.prompts.encoding` makes token ids of it.

Row text is data, never markup. A row that holds `<|im_start|>` or the EOS string could otherwise open a turn or end
the prompt: prompts are text until the engine encodes them, and tokenizers split either all special tokens or none.
So a space is inserted after the first character of every special token in row text (`< |im_start|>`): it is readable,
part of every vocabulary, kept by every normaliser. The template's own text is unchanged, and so is everything but
special tokens of that model's tokenizer: role names that a chat template writes as ordinary text (`User:`) stay.
"""

from __future__ import annotations

import re
import secrets
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import jinja2
from jinja2.meta import find_undeclared_variables

from sampling.errors import RowError, TemplateError
from sampling.prompts.sandbox import SANDBOX, Null

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}

MAX_PROMPT_CHARS = 4_000_000  # about a million tokens, the longest context there is
_NONCE = secrets.token_hex(8)  # no row can spell a placeholder of a template's special token


class MissingFieldError(RowError):
    """A row that lacks a field of its template."""

    reason = "missing_field"


class RenderError(RowError):
    """A row that its template, or the model's chat template, fails on."""

    reason = "render_failed"


class PromptTemplate:
    """A compiled template of one model's prompts."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        style: Literal["chat", "plain"],
        template: str,
        system: str | None = None,
        hidden: Collection[str] = (),
        name: str = "the prompt",
    ) -> None:
        """Compile `template`, which must not use the fields `hidden`, those of the reference answer.

        `name` is the template's name in error messages. Raises TemplateError.
        """
        if style == "chat" and not tokenizer.chat_template:
            raise TemplateError(
                f"{name} has style: chat, but the tokenizer {tokenizer.name_or_path!r} has no chat template; "
                "use style: plain"
            )
        self.name, self.style, self.system = name, style, system
        self._tokenizer = tokenizer
        self._hidden = frozenset(hidden)
        special = _special_strings(tokenizer)
        self.neutralise = _neutraliser(special)  # breaks up the special tokens in row text
        self._placeholders = {token: f"\ue000{_NONCE}{i}\ue001" for i, token in enumerate(special)}
        source = template
        for token, placeholder in self._placeholders.items():
            source = source.replace(token, placeholder)
        try:
            named = find_undeclared_variables(SANDBOX.parse(source))
            self._template = SANDBOX.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"{name} is no Jinja template: line {error.lineno}: {error.message}") from error
        if leaked := sorted(named & self._hidden):
            raise TemplateError(
                f"{name} names {', '.join(map(repr, leaked))}, which holds the reference answer; only the "
                "teacher's template may show it"
            )

    def conversation(self, fields: Mapping[str, Any], history: Sequence[Message] = ()) -> list[Message]:
        """Return the turns before the answer: the system message (else the row's), `history`, the rendered turn.

        Raises MissingFieldError or RenderError.
        """
        return [{**turn, "content": self._restore(turn["content"])} for turn in self._conversation(fields, history)]

    def render(self, fields: Mapping[str, Any], history: Sequence[Message] = ()) -> str:
        """Return the prompt's text; `history` are a chat's earlier turns, which a plain template ignores.

        Raises MissingFieldError or RenderError.
        """
        if self.style == "plain":
            return self._restore(self._content(fields))
        messages = self._conversation(fields, history)
        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a chat template may raise any error, also on purpose
            raise RenderError(f"{self.name}: the model's chat template refuses the row: {_one_line(error)}") from error
        assert isinstance(text, str)
        return self._restore(text)

    def _conversation(self, fields: Mapping[str, Any], history: Sequence[Message]) -> list[Message]:
        earlier = [{"role": turn["role"], "content": self.neutralise(turn["content"])} for turn in history]
        if self.system is not None:
            others = [turn for turn in earlier if turn["role"] != "system"]
            earlier = [{"role": "system", "content": self.system}, *others]
        return [*earlier, {"role": "user", "content": self._content(fields)}]

    def _content(self, fields: Mapping[str, Any]) -> str:
        """Return the rendered template, its own special tokens still placeholders."""
        visible = {
            key: Null(name=key) if value is None else value for key, value in fields.items() if key not in self._hidden
        }
        chunks: list[str] = []
        num_chars = 0
        try:
            for chunk in self._template.generate(visible):
                chunks.append(chunk)
                if (num_chars := num_chars + len(chunk)) > MAX_PROMPT_CHARS:
                    raise RenderError(f"{self.name} renders to more than {MAX_PROMPT_CHARS:,} characters")
        except jinja2.UndefinedError as error:
            filled = ", ".join(sorted(key for key, value in visible.items() if not isinstance(value, Null)))
            raise MissingFieldError(
                f"{self.name} needs a field that is missing or null: {error}; there are: {filled or 'none'}"
            ) from error
        except RowError:
            raise
        except Exception as error:  # any error: TypeError, SecurityError, ZeroDivisionError
            raise RenderError(f"{self.name} cannot be rendered: {type(error).__name__}: {_one_line(error)}") from error
        return self.neutralise("".join(chunks))

    def _restore(self, text: str) -> str:
        if "\ue000" in text:
            for token, placeholder in self._placeholders.items():
                text = text.replace(placeholder, token)
        return text


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _special_strings(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return every special token's text, longest first, so that none is replaced by a shorter one inside it."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    texts = {text.strip() for text in (*tokenizer.all_special_tokens, *added)}
    return sorted((text for text in texts if len(text) > 1), key=lambda text: (-len(text), text))


def _neutraliser(special: Sequence[str]) -> Callable[[str], str]:
    """Return a function that inserts a space after the first character of each special token in a text."""
    if not special:
        return lambda text: text
    # Grouped by their first two characters: tokenizers have up to 1000 reserved tokens, and one flat alternation takes
    # 9 ms per kilobyte, this 0.03 ms.
    endings: defaultdict[str, list[str]] = defaultdict(list)
    for token in special:
        endings[token[:2]].append(re.escape(token[2:]))
    groups = "|".join(f"{re.escape(start)}(?:{'|'.join(tails)})" for start, tails in endings.items())
    spelled = re.compile(f"(?={groups})(.)", re.DOTALL)  # lookahead: finds overlapping tokens, too
    return lambda text: spelled.sub(r"\1 ", text)
