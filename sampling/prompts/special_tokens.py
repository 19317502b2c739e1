"""The special tokens of a tokenizer, which row text must not spell.

Row text is data, never markup. A row that holds `<|im_start|>` or the EOS string could otherwise open a turn or end
the prompt: prompts are text until the engine encodes them, and tokenizers split either all special tokens or none.
So a space is inserted after the first character of every special token in row text (`< |im_start|>`): it is readable,
part of every vocabulary, kept by every normaliser. What a tokenizer's normaliser makes a special token of other text
(`＜|im_start|＞` by NFKC, `<|IM_START|>` by lower-casing) is found after encoding, by counting.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def special_ids(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Return every special token's id with its text, without blanks around it; tokens of one character are left out.

    The unknown token is none, unless it ends or begins texts, too: tokenizers write it for characters they lack.
    """
    texts = {token_id: token.content for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    named = tokenizer.all_special_tokens
    texts |= dict(zip(tokenizer.convert_tokens_to_ids(named), named, strict=True))
    if tokenizer.unk_token_id not in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        texts.pop(tokenizer.unk_token_id, None)
    return {token_id: text.strip() for token_id, text in texts.items() if len(text.strip()) > 1}


class SpecialTexts:
    """A finder of special tokens in text."""

    def __init__(self, texts: Collection[str]) -> None:
        # Longest first: none is found as a shorter one inside it. Grouped by their first two characters: tokenizers
        # have up to 1000 reserved tokens, and one flat alternation takes 9 ms per kilobyte, this 0.03 ms.
        self.texts = sorted(set(texts), key=lambda text: (-len(text), text))
        endings: defaultdict[str, list[str]] = defaultdict(list)
        for token in self.texts:
            endings[token[:2]].append(re.escape(token[2:]))
        groups = "|".join(f"{re.escape(start)}(?:{'|'.join(tails)})" for start, tails in endings.items()) or r"(?!)"
        self._token = re.compile(groups)
        self._start = re.compile(f"(?={groups})(.)", re.DOTALL)  # lookahead: finds overlapping tokens, too

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


class SpecialTokens:
    """The special tokens of one tokenizer, by id and by text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.ids = special_ids(tokenizer)
        self.texts = SpecialTexts(self.ids.values())

    def forged(self, text: str, ids: Sequence[int]) -> str | None:
        """Return a special token that `ids` holds more often than `text` spells it; None where there is none.

        `ids` encode `text`, without what the tokenizer adds. Row text spells no special token, so that those which
        are spelled are the template's.
        """
        found = self.ids.keys() & set(ids)
        spelled = self.texts.spelled(text) if found else []
        numbers: dict[str, int] = defaultdict(int)  # two ids may have one text, but for blanks
        for token_id in found:
            numbers[self.ids[token_id]] += ids.count(token_id)
        return next((token for token, number in numbers.items() if number > spelled.count(token)), None)
