"""Tests of a completion's state: stops, text, diagnostics."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from sampling import DualOutput, MixtureConfig, SamplingConfig
from sampling.engine.request import Request, RequestContext
from sampling.results import DIAGNOSTICS, DrawnToken
from tests.tiny import byte_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


def run(
    tokenizer: PreTrainedTokenizerFast, text: str, *, eos: bool = False, streamed: bool = False, **sampling: object
) -> tuple[Request, deque]:  # type: ignore[type-arg]
    """Append the tokens of a text to a row until it ends."""
    context = RequestContext(
        MixtureConfig.preset("balanced"),
        SamplingConfig(**sampling),  # type: ignore[arg-type]
        (tokenizer.eos_token_id,),
        tokenizer,
        deque(),
        streamed,
    )
    row = Request("id", 0, (1,), (1, 2), context)
    ids = tokenizer(text).input_ids + ([tokenizer.eos_token_id] if eos else [])
    for index, token_id in enumerate(ids):
        if row.append(token_id, np.full(len(DIAGNOSTICS), float(index == 0))):
            break
    return row, context.inbox


def only(inbox: deque) -> DualOutput:  # type: ignore[type-arg]
    (output,) = inbox
    return output


def test_length_eos_and_stop_id(tokenizer: PreTrainedTokenizerFast) -> None:
    cut = only(run(tokenizer, "abcdef", max_tokens=3)[1])
    assert (cut.text, cut.finish_reason, len(cut.token_ids)) == ("abc", "length", 3)
    ended = only(run(tokenizer, "abc", eos=True)[1])
    assert (ended.text, ended.finish_reason, len(ended.token_ids)) == ("abc", "eos", 4)
    stop_id = tokenizer("c").input_ids[0]
    stopped = only(run(tokenizer, "abcdef", stop_token_ids=(stop_id,))[1])
    assert (stopped.text, stopped.finish_reason, len(stopped.token_ids)) == ("ab", "stop", 3)


def test_eos_at_the_last_token_allowed_is_eos(tokenizer: PreTrainedTokenizerFast) -> None:
    assert only(run(tokenizer, "ab", eos=True, max_tokens=3)[1]).finish_reason == "eos"


@pytest.mark.parametrize(
    ("stop", "text"), [(("cd",), "ab"), (("zz", "de"), "abc"), (("f",), "abcde"), (("é",), "abcdef")]
)
def test_stop_strings_span_tokens_and_are_cut(
    stop: tuple[str, ...], text: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    output = only(run(tokenizer, "abcdefé!", stop=stop)[1])
    assert (output.text, output.finish_reason) == (text, "stop")


def test_a_stream_yields_a_character_with_its_last_byte(tokenizer: PreTrainedTokenizerFast) -> None:
    _, inbox = run(tokenizer, "aé", eos=True, streamed=True)
    assert all(isinstance(token, DrawnToken) for token in inbox)
    assert [token.text for token in inbox] == ["a", "", "é", ""]
    assert [token.finish_reason for token in inbox] == [None, None, None, "eos"]


def test_diagnostics_become_typed_columns(tokenizer: PreTrainedTokenizerFast) -> None:
    diagnostics = only(run(tokenizer, "ab", eos=True)[1]).diagnostics
    assert diagnostics.alpha.tolist() == [1, 0, 0]
    assert diagnostics.alpha.dtype == np.float32
    assert diagnostics.support_size.dtype == np.int32
    assert diagnostics.mode.dtype == np.uint8
