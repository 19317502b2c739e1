"""Tests of the `sample` command: prompts, colours, refusals."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.cli.sample import _prompt, answer
from sampling import DualSampler, EngineConfig, SamplingConfig
from sampling.errors import ConfigurationError
from tests.flows.commands import Run
from tests.tiny import byte_tokenizer

SAMPLING = SamplingConfig(max_tokens=12)


@pytest.fixture(scope="module")
def sampler(tiny_pair: tuple[Path, Path]) -> Iterator[DualSampler]:
    teacher, theta = tiny_pair
    with DualSampler(str(teacher), str(theta), engine=EngineConfig(max_num_seqs=1)) as loaded:
        yield loaded


@pytest.mark.slow
def test_colours_do_not_change_the_text(
    sampler: DualSampler, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(sampler, SAMPLING, "2 + 2?")
    plain, err = capsys.readouterr()
    assert "\x1b" not in plain
    assert plain.endswith("\n")
    assert re.match(r"\d+ tokens? \((eos|length)\): \d+ mixed, 1 forced, ", err)

    monkeypatch.setenv("FORCE_COLOR", "1")
    answer(sampler, SAMPLING, "2 + 2?")
    colored = capsys.readouterr().out
    legend, text = re.sub(r"\x1b\[[\d;]*m", "", colored).split("\n", 1)
    assert legend.startswith("theta ")
    assert text == plain
    assert "\x1b[" in colored.split("\n", 1)[1]


@pytest.mark.slow
def test_a_question_that_cannot_be_sampled_is_a_configuration_error(sampler: DualSampler) -> None:
    with pytest.raises(ConfigurationError, match="tokens"):
        answer(sampler, SAMPLING, "x" * 2000)


def test_an_empty_question_is_refused_before_anything_is_loaded(run: Run) -> None:
    code, out, err = run("sample", " ", "--teacher", "no-model", "--theta", "no-model")
    assert (code, out, err) == (2, "", "dual-sampling: the question is empty; give a text\n")


def test_the_prompt_has_the_reference_only_where_given() -> None:
    tokenizer = byte_tokenizer()
    fields = {"question": "2 + 2?", "system": "Be brief.", "reference": None}
    assert _prompt(tokenizer, fields) == "<|system|>Be brief.\n<|user|>2 + 2?\n<|assistant|>"
    prompt = _prompt(tokenizer, fields | {"reference": "4"})
    assert prompt == "<|system|>Be brief.\n<|user|>2 + 2?\nHint: 4\n<|assistant|>"


def test_a_model_without_a_chat_template_reads_plain_lines() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    assert _prompt(tokenizer, {"question": "2 + 2?", "system": None, "reference": None}) == "Q: 2 + 2?\nA:"
    fields: dict[str, str | None] = {"question": "2 + 2?", "system": "Be brief.", "reference": "4"}
    assert _prompt(tokenizer, fields) == "Be brief.\n\nQ: 2 + 2?\nHint: 4\nA:"
