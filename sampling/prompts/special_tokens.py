"""The special tokens of a tokenizer, which row text must not spell.

Row text is data, never markup. A row that holds `<|im_start|>` or the EOS string could otherwise open a turn or end
the prompt: prompts are text until the engine encodes them, and tokenizers split either all special tokens or none.
So a space is inserted after the first character of every special token in row text (`< |im_start|>`): it is readable,
part of every vocabulary, kept by every normaliser. What a template makes a special token of all the same is found by
comparing with a prompt of markers (`sampling.prompts.rendering`), what a tokenizer's normaliser does (`＜|im_start|＞`
by NFKC, `<|IM_START|>` by lower-casing) after encoding, by place.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from sampling.errors import RowError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Span = tuple[int, int]  # of characters of a text


class ForgedTokenError(RowError):
    """A row whose text becomes a special token, by a template or by the tokenizer's normaliser."""

    reason = "special_token"


def special_ids(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Return every special token's id with its text, without blanks around it.

    A character of ASCII that the vocabulary itself holds, such as a pad token "!", is text. The unknown token is none,
    unless it ends or begins texts, too: tokenizers write it for characters they lack.
    """
    texts = {token_id: token.content for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    named = tokenizer.all_special_tokens
    texts |= dict(zip(tokenizer.convert_tokens_to_ids(named), named, strict=True))
    if tokenizer.unk_token_id not in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        texts.pop(tokenizer.unk_token_id, None)
    model = tokenizer.backend_tokenizer.model if tokenizer.is_fast else None
    texts = {token_id: text.strip() for token_id, text in texts.items() if text.strip()}
    return {
        token_id: text
        for token_id, text in texts.items()
        # Beyond ASCII, a character of a byte-level vocabulary stands for a byte.
        if len(text) > 1 or not text.isascii() or (model is not None and model.token_to_id(text) != token_id)
    }


class SpecialTexts:
    """A finder of special tokens in text."""

    def __init__(self, texts: Collection[str]) -> None:
        # Longest first: none is found as a shorter one inside it. Grouped by their first two characters: tokenizers
        # have up to 1000 reserved tokens, and one flat alternation takes 9 ms per kilobyte, this 0.03 ms.
        self.texts = sorted(set(texts), key=lambda text: (-len(text), text))
        self._token = re.compile(_pattern(self.texts))
        # Lookahead: finds overlapping tokens, too. One of a single character cannot be broken up: its row is refused.
        self._start = re.compile(f"(?={_pattern([text for text in self.texts if len(text) > 1])})(.)", re.DOTALL)

    def neutralise(self, value: Any) -> Any:
        """Return the value with a space after the first character of each special token in its texts, at any depth."""
        if isinstance(value, str):
            return self._start.sub(r"\1 ", value)
        if isinstance(value, dict):
            return {self.neutralise(key): self.neutralise(item) for key, item in value.items()}
        return [self.neutralise(item) for item in value] if isinstance(value, list | tuple) else value

    def spelled(self, text: str) -> list[str]:
        """Return the special tokens that the text spells, in order."""
        return self._token.findall(text)


def _pattern(texts: Sequence[str]) -> str:
    endings: defaultdict[str, list[str]] = defaultdict(list)
    for token in texts:
        endings[token[:2]].append(re.escape(token[2:]))
    return "|".join(f"{re.escape(start)}(?:{'|'.join(tails)})" for start, tails in endings.items()) or r"(?!)"


class SpecialTokens:
    """The special tokens of one tokenizer, by id and by text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.ids = special_ids(tokenizer)
        self.texts = SpecialTexts(self.ids.values())

    def forged(self, text: str, ids: Sequence[int], spans: Sequence[Span] | None) -> str | None:
        """Return a special token of `ids` that `text` does not spell where it stands; None where there is none.

        `ids` encode `text`, without what the tokenizer adds. Row text spells no special token, so that those which
        are spelled are the template's. `spans`: the characters of each id; without them the numbers are compared.
        """
        if not (found := self.ids.keys() & set(ids)):
            return None
        if spans is not None:
            placed = (
                (self.ids[token_id], span) for token_id, span in zip(ids, spans, strict=True) if token_id in found
            )
            return next((token for token, (start, end) in placed if text[start:end].strip() != token), None)
        spelled = self.texts.spelled(text)
        numbers: dict[str, int] = defaultdict(int)  # two ids may have one text, but for blanks
        for token_id in found:
            numbers[self.ids[token_id]] += ids.count(token_id)
        return next((token for token, number in numbers.items() if number > spelled.count(token)), None)
