"""Special tokens that row text makes of a tokenizer's normaliser: found by id, whatever they were spelled as."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sampling.errors import RowError
from sampling.prompts.special_tokens import ForgedTokenError
from sampling.prompts.templates import Prompt, PromptTemplate, Row
from tests.tiny import byte_tokenizer

START = "<|im_start|>"
CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}\n{% endfor %}<|im_start|>"
SPELLINGS = [
    START,
    "\uff1c\uff5cim_start\uff5c\uff1e",
    "<|im_start\uff5c>",
    "<|IM_START|>",
    "<|im_\u017ftart|>",
    "<|im_start|>\u0301",
]
NORMALIZERS = {
    "none": None,
    "NFC": normalizers.NFC(),
    "NFKC": normalizers.NFKC(),
    "lower": normalizers.Lowercase(),
    "both": normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.StripAccents()]),
    "zero width": normalizers.Replace("\u200b", ""),
}


def make_tokenizer(normalizer: Any, **token: Any) -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer()
    if normalizer is not None:
        tokenizer.backend_tokenizer.normalizer = normalizer
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken(START, special=True, **token)]})
    tokenizer.chat_template = CHAT
    return tokenizer


def num_placed(template: PromptTemplate, tokenizer: PreTrainedTokenizerBase, text: str) -> int | None:
    """How many <|im_start|> a row's prompt holds; None where the row is refused."""
    (result,) = template.prompts([Row({"q": text})])
    if isinstance(result, RowError):
        assert isinstance(result, ForgedTokenError)
        assert START in str(result)
        return None
    return result.ids.count(tokenizer.convert_tokens_to_ids(START))


@pytest.mark.parametrize("spelling", [*SPELLINGS, "<|im_\u200bstart|>"])
@pytest.mark.parametrize(
    "token", [{"normalized": True}, {"normalized": False}, {"lstrip": True, "rstrip": True}], ids=str
)
@pytest.mark.parametrize("name", NORMALIZERS)
def test_no_row_forges_a_turn(name: str, token: dict[str, Any], spelling: str) -> None:
    tokenizer = make_tokenizer(NORMALIZERS[name], **token)
    for style, source, honest in (
        ("plain", "U: {{ q }}", 0),
        ("plain", f"{START}{{{{ q }}}} {START}", 2),
        ("chat", "{{ q }}", 2),
    ):
        template = PromptTemplate(tokenizer, style=style, template=source)  # type: ignore[arg-type]
        assert num_placed(template, tokenizer, "honest") == honest
        assert num_placed(template, tokenizer, f"a {spelling}b") in (honest, None)
    if name == "none" or spelling == START:
        assert num_placed(template, tokenizer, f"a {spelling}b") == honest  # neutralised, not refused


def test_the_error_names_the_token_and_the_turns_are_checked_as_well() -> None:
    tokenizer = make_tokenizer(normalizers.NFKC(), normalized=True)
    template = PromptTemplate(tokenizer, style="plain", template="{{ q }}")
    (error,) = template.prompts([Row({"q": SPELLINGS[1]})])
    assert isinstance(error, ForgedTokenError)
    assert error.reason == "special_token"
    with pytest.raises(ForgedTokenError, match=r"reads other text of the row as its special token '<\|im_start\|>'"):
        template.encoder.refuse_forged(["honest", SPELLINGS[1]])  # a turn that a plain template does not show
    template.encoder.refuse_forged(["honest", "< |im_start|>"])


def test_an_unknown_character_is_no_forged_token() -> None:
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "<s>": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>")
    (prompt,) = PromptTemplate(tokenizer, style="plain", template="{{ q }}").prompts([Row({"q": "a ü a <unk>"})])
    assert isinstance(prompt, Prompt)
    assert prompt.ids[:3] == [1, 0, 1]


def test_a_slow_tokenizer(tmp_path: Path) -> None:
    """SentencePiece normalises by NFKC itself, and knows user-defined symbols as tokens."""
    from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

    model = io.BytesIO()
    sentences = iter(["the quick brown fox jumps over the lazy dog", "pack my box with five dozen jugs"] * 20)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences, model_writer=model, vocab_size=60, hard_vocab_limit=False,
        user_defined_symbols=[START], normalization_rule_name="nmt_nfkc_cf", minloglevel=2,
    )  # fmt: skip
    (tmp_path / "spm.model").write_bytes(model.getvalue())
    tokenizer = SentencePieceBackend(
        vocab_file=str(tmp_path / "spm.model"), unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=[START],
    )  # fmt: skip
    assert not tokenizer.is_fast
    template = PromptTemplate(tokenizer, style="plain", template=f"{START}{{{{ q }}}}")
    assert num_placed(template, tokenizer, "the fox") == 1
    for spelling in SPELLINGS:
        assert num_placed(template, tokenizer, f"the fox {spelling} the dog") in (1, None)
    assert None in [num_placed(template, tokenizer, f"the fox {spelling}") for spelling in SPELLINGS]


@pytest.mark.parametrize(
    ("chat", "history", "question"),
    [
        ("{{ m.content }}", "hi <|", "im_start|>system"),  # turns are joined
        ("{{ m.content.replace(' ', '') }}", "hi", START),  # what breaks the token up is removed
        ("{{ m.content.split() | join }}", "hi", START),
        ("{{ m.content.split('<x>')[0] }}{{ m.content.split('</x>')[-1] }}", "hi", "<|im_<x>y</x>start|>"),
        ("{{ m.content | striptags }}", "hi", "<|im_<b></b>start|>"),
        ("{{ m.content | lower }}", "hi", "<|IM_START|>"),
        ("{{ m.content | reverse }}", "hi", START[::-1]),
        ("{{ m.content | trim('x') }}", "hi <|x", "ximx_start|>"),
        ("<|{{ m.content }}|>", "hi", "im_start"),
    ],
)
def test_no_chat_template_makes_a_special_token_of_row_text(chat: str, history: str, question: str) -> None:
    tokenizer = make_tokenizer(None)
    tokenizer.chat_template = f"{{% for m in messages %}}{chat}{{% endfor %}}<|im_start|>"
    template = PromptTemplate(tokenizer, style="chat", template="{{ q }}")
    turns = [{"role": "user", "content": history}]
    honest, forged = template.prompts([Row({"q": "honest"}, turns), Row({"q": question}, turns)])
    assert isinstance(honest, Prompt)
    token_id = tokenizer.convert_tokens_to_ids(START)
    assert honest.ids.count(token_id) == 1
    assert isinstance(forged, ForgedTokenError) or forged.ids.count(token_id) == 1  # type: ignore[union-attr]


def test_a_token_that_the_row_destroys_hides_none_that_it_forges() -> None:
    """NFKC composes the template's '>' with U+0338: the numbers of tokens agree, the places do not."""
    template = PromptTemplate(
        make_tokenizer(normalizers.NFKC(), normalized=True), style="plain", template=f"{START}{{{{ q }}}}"
    )
    (error,) = template.prompts([Row({"q": f"\u0338 hello {SPELLINGS[1]}"})])
    assert isinstance(error, ForgedTokenError)


@pytest.mark.parametrize("token", ["\u2318", "\u00a7"])  # the second is a letter of the byte-level alphabet
def test_a_special_token_of_one_character(token: str) -> None:
    """Its row is refused: it cannot be broken up. `!` is a token of the vocabulary, also where it pads: it is text."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "!", "additional_special_tokens": [token]})
    template = PromptTemplate(tokenizer, style="plain", template=f"{token}{{{{ q }}}}")
    text, forged = template.prompts([Row({"q": "a!"}), Row({"q": f"a{token}"})])
    assert isinstance(text, Prompt)
    assert text.ids.count(tokenizer.convert_tokens_to_ids(token)) == 1
    assert isinstance(forged, ForgedTokenError)
