"""Prompt templates over the fields of a row.

The life of a prompt: the user's Jinja template is rendered in a sandbox over the row's fields; the row's text
loses the power to spell special tokens; `chat` wraps the result in the model's own chat template;
`encode_prompt` makes token ids of it.

Row text is data, never markup. A row that holds `<|im_start|>` or the EOS string could otherwise open a turn
or end the prompt, and it travels as text until the engine encodes it, where splitting special tokens is all
or nothing. So every special token that row text spells gets a space after its first character
(`< |im_start|>`): readable, part of every vocabulary, kept by every normaliser. What the template itself spells
stays as it is. Only text is changed that spells a special token of that model's tokenizer; role names that a
chat template writes as ordinary text (`User:`) are ordinary text here too.
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
_NONCE = secrets.token_hex(8)  # so that no row can spell the stand-in of a template's special token


class MissingFieldError(RowError):
    """A row without a field that its template needs."""

    reason = "missing_field"


class RenderError(RowError):
    """A row that its template, or the model's chat template, cannot render."""

    reason = "render_failed"


class PromptTemplate:
    """One model's prompt as a function of a row's fields; compiled once, rendered for every row."""

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
        """Compile `template`; `hidden` are the fields that hold the reference, which it must not name.

        `name` stands for the template in messages. Raises TemplateError.
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
        self._neutralise = _neutraliser(special)
        self._stand_ins = {token: f"\ue000{_NONCE}{i}\ue001" for i, token in enumerate(special)}
        source = template
        for token, stand_in in self._stand_ins.items():
            source = source.replace(token, stand_in)
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

    def neutralise(self, text: str) -> str:
        """`text` of a row, unable to spell a special token."""
        return self._neutralise(text)

    def conversation(self, fields: Mapping[str, Any], history: Sequence[Message] = ()) -> list[Message]:
        """The turns before the answer: own system message (else the row's), `history`, the rendered turn.

        Raises MissingFieldError or RenderError.
        """
        return [{**turn, "content": self._restore(turn["content"])} for turn in self._conversation(fields, history)]

    def render(self, fields: Mapping[str, Any], history: Sequence[Message] = ()) -> str:
        """The prompt's text. `history` is a chat's earlier turns; a plain template prints what it wants.

        Raises MissingFieldError or RenderError.
        """
        if self.style == "plain":
            return self._restore(self._content(fields))
        messages = self._conversation(fields, history)
        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a chat template may raise anything, on purpose too
            raise RenderError(f"{self.name}: the model's chat template refuses the row: {_one_line(error)}") from error
        assert isinstance(text, str)
        return self._restore(text)

    def _conversation(self, fields: Mapping[str, Any], history: Sequence[Message]) -> list[Message]:
        earlier = [{"role": turn["role"], "content": self._neutralise(turn["content"])} for turn in history]
        if self.system is not None:
            earlier = [turn for turn in earlier if turn["role"] != "system"]
            earlier.insert(0, {"role": "system", "content": self.system})
        return [*earlier, {"role": "user", "content": self._content(fields)}]

    def _content(self, fields: Mapping[str, Any]) -> str:
        """The template over the fields, special tokens of the template still stand-ins."""
        visible = {
            key: Null(name=key) if value is None else value for key, value in fields.items() if key not in self._hidden
        }
        chunks: list[str] = []
        num_chars = 0
        try:
            for chunk in self._template.generate(visible):
                chunks.append(chunk)
                num_chars += len(chunk)
                if num_chars > MAX_PROMPT_CHARS:
                    raise RenderError(f"{self.name} renders to more than {MAX_PROMPT_CHARS:,} characters")
        except jinja2.UndefinedError as error:
            filled = ", ".join(sorted(key for key, value in visible.items() if not isinstance(value, Null)))
            raise MissingFieldError(
                f"{self.name} needs a field that is missing or null: {error}; there are: {filled or 'none'}"
            ) from error
        except RowError:
            raise
        except Exception as error:  # a template may raise anything: TypeError, SecurityError, ZeroDivisionError
            raise RenderError(f"{self.name} cannot be rendered: {type(error).__name__}: {_one_line(error)}") from error
        return self._neutralise("".join(chunks))

    def _restore(self, text: str) -> str:
        if "\ue000" in text:
            for token, stand_in in self._stand_ins.items():
                text = text.replace(stand_in, token)
        return text


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Token ids of a rendered prompt: what the tokenizer puts in front (BOS), once; nothing behind (no EOS).

    A chat template often writes BOS itself; then the tokenizer does not add another.
    """
    ids = tokenizer.encode(text, add_special_tokens=False)
    prefix = _added_prefix(tokenizer)
    if ids[: len(prefix)] != prefix:
        ids = prefix + ids
    bos = tokenizer.bos_token_id
    while bos is not None and ids[:2] == [bos, bos]:
        ids = ids[1:]
    return tuple(ids)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _added_prefix(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that the tokenizer puts in front of a text by itself, seen on a one-letter probe."""
    bare, dressed = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
    starts = (i for i in range(len(dressed)) if dressed[i : i + len(bare)] == bare)
    prefix: list[int] = dressed[: next(starts, 0)]
    return prefix


def _special_strings(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Every special token's text, longest first, so that none is taken for a shorter one inside it."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    texts = {text.strip() for text in (*tokenizer.all_special_tokens, *added)}
    return sorted((text for text in texts if len(text) > 1), key=lambda text: (-len(text), text))


def _neutraliser(special: Sequence[str]) -> Callable[[str], str]:
    """A function that puts a space after the first character of each special token it finds."""
    if not special:
        return lambda text: text
    # Grouped by two leading characters: tokenizers hold 1000 reserved tokens, and one flat alternation of
    # them takes 9 ms a kilobyte where this takes 0.03 ms.
    endings: defaultdict[str, list[str]] = defaultdict(list)
    for token in special:
        endings[token[:2]].append(re.escape(token[2:]))
    groups = "|".join(f"{re.escape(start)}(?:{'|'.join(tails)})" for start, tails in endings.items())
    spelled = re.compile(f"(?={groups})(.)", re.DOTALL)  # looks ahead: overlapping tokens are all found
    return lambda text: spelled.sub(r"\1 ", text)
