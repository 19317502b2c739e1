"""Checks of completions against cases with known results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampling.config import MixtureConfig, SamplingConfig
from sampling.engine.request import Request, RequestContext
from sampling.results import DIAGNOSTICS, DualOutput
from tests.tiny import byte_tokenizer
from validations.measure.completions import decodes, ends_right, is_garbled, loops, strays, text_hashes

TOKENIZER = byte_tokenizer()
EOS = TOKENIZER.eos_token_id
NOTHING: frozenset[int] = frozenset()


def flat(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return rows as token_ids [T] int32 and starts [N+1] int64."""
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)])
    return np.array([token_id for row in rows for token_id in row], dtype=np.int32), starts


def decode(rows: list[list[int]]) -> list[str]:
    texts = TOKENIZER.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(texts, list)
    return texts


def texts(*values: str | None) -> pa.Array:
    return pa.array(values, pa.string())


@pytest.mark.parametrize(
    ("ids", "reason", "expected"),
    [
        ([1, 2, 9], "eos", True),
        ([9], "eos", True),
        ([1, 2, 8], "eos", False),
        ([1, 8, 9], "eos", False),
        ([1, 2, 8], "stop", True),
        ([1, 2, 3], "stop", True),
        ([1, 2, 9], "stop", False),
        ([8, 2, 3], "stop", False),
        ([1, 2, 3], "length", True),
        ([1, 2, 9], "length", False),
        ([1, 2, 8], "length", False),
        ([1, 2, 9], "other", True),
        ([9, 2, 3], "other", False),
        ([1, 2, 9], None, True),
        ([], "eos", False),
        ([], "length", False),
    ],
)
def test_ends_right(ids: list[int], reason: str | None, expected: bool) -> None:
    # Good rows around it: nothing may be taken from a neighbour.
    rows = [[4, 9], ids, [], [5, 9]]
    found = ends_right(*flat(rows), texts("eos", reason, "eos", "eos"), frozenset([9]), frozenset([8]))
    assert found.tolist() == [True, expected, False, True]


def test_nothing_ends_a_row_where_no_id_does() -> None:
    assert ends_right(*flat([[1], [2, 3]]), texts("length", "eos"), NOTHING, NOTHING).tolist() == [True, False]


@st.composite
def outputs(draw: st.DrawFn) -> tuple[DualOutput, frozenset[int]]:
    """Return a `Request`'s output of any ids and any end; few ids are likely, so that stop strings occur."""
    ids = draw(st.lists(st.one_of(st.sampled_from(TOKENIZER("ab é").input_ids), st.integers(0, EOS)), min_size=1))
    stop_ids = draw(st.frozensets(st.integers(0, EOS - 1), max_size=2))
    sampling = SamplingConfig(
        max_tokens=len(ids),
        stop=tuple(draw(st.lists(st.sampled_from(["ab", "é", " b", "a"]), max_size=2))),
        stop_token_ids=tuple(sorted(stop_ids)),
    )
    made = RequestContext(MixtureConfig.preset("balanced"), sampling, (EOS,), TOKENIZER)
    row = Request("id", 0, (1,), (1,), made)
    for token_id in ids:
        if row.append(token_id, np.zeros(len(DIAGNOSTICS))):
            break
    (output,) = made.inbox
    assert isinstance(output, DualOutput)
    return output, stop_ids


@given(outputs())
def test_whatever_a_row_makes_of_its_ids_is_judged_right(made: tuple[DualOutput, frozenset[int]]) -> None:
    output, stop_ids = made
    lists = *flat([output.token_ids]), texts(output.finish_reason)
    ending = frozenset([EOS]), stop_ids
    assert ends_right(*lists, *ending).all()
    assert decodes(*lists, texts(output.text), *ending, decode).all()
    assert not decodes(*lists, texts(output.text + "§"), *ending, decode).any()
    is_cut = output.finish_reason == "stop" and output.token_ids[-1] not in stop_ids
    if output.text:
        assert decodes(*lists, texts(output.text[:-1]), *ending, decode).all() == is_cut


def test_decodes_row_by_row_past_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("validations.measure.completions.SLICE_ROWS", 3)
    words = ["one", "", "three", "vier", "fünf", "", "７"]
    rows = [[*TOKENIZER(word).input_ids, EOS] for word in words]
    rows[5] = []
    reasons = texts(*["eos"] * len(rows))
    found = decodes(*flat(rows), reasons, texts(*words[:-1], "7"), frozenset([EOS]), NOTHING, decode)
    assert found.tolist() == [True] * 6 + [False]


def test_decodes_takes_null_for_empty() -> None:
    found = decodes(*flat([[], [1]]), texts(None, None), texts(None, None), frozenset([EOS]), NOTHING, decode)
    assert found.tolist() == [True, False]


@pytest.mark.parametrize(
    ("reason", "completion", "expected"),
    [
        ("stop", "ab", True),
        ("stop", "abc", False),
        ("stop", "a", False),  # a stop id cuts itself off, and no more
        ("length", "abc", True),  # `ends_right` finds fault with it: this text is of all ids
        ("length", "ab", False),
    ],
)
def test_decodes_where_a_stop_id_has_a_text(reason: str, completion: str, expected: bool) -> None:
    ids = TOKENIZER("abc").input_ids
    found = decodes(*flat([ids]), texts(reason), texts(completion), frozenset([EOS]), frozenset(ids[2:]), decode)
    assert found.tolist() == [expected]


def repeated_share(ids: Sequence[int]) -> float:
    """Return the share of repeated 8-grams, by its definition."""
    grams = [tuple(ids[start : start + 8]) for start in range(len(ids) - 7)]
    return 1 - len(set(grams)) / len(grams)


def test_loops_of_any_period_are_found() -> None:
    rng = np.random.default_rng(0)
    for period in range(1, 20):
        row = np.tile(rng.integers(0, 1000, period), 60)[:60].tolist()
        assert repeated_share(row) == pytest.approx(1 - period / 53)
        assert loops(*flat([row])).all()
    assert loops(*flat([[1, 2, 3] * 20, [1, 2, 3] * 10])).tolist() == [True, False]  # 30 tokens are too few


def test_a_loop_at_the_end_of_a_long_row_is_found() -> None:
    rng = np.random.default_rng(0)
    long, short = rng.integers(0, 1000, 2000).tolist(), rng.integers(0, 1000, 200).tolist()
    rows = [[*long, *[7, 8, 9] * 22], [*long, *[7, 8, 9] * 10], [*[7, 8, 9] * 22, *long], [*short, *[1] * 64], short]
    assert loops(*flat(rows)).tolist() == [True, False, False, True, False]


def test_the_bounds_of_a_loop() -> None:
    assert loops(*flat([[1] * 31, [1] * 32])).tolist() == [False, True]
    # 39 tokens have 32 8-grams. A tail of L equal ones has L − 8 repeats: 24 make a half, 25 more.
    rows = [[*range(100, 115), *[1] * 24], [*range(100, 114), *[1] * 25]]
    assert loops(*flat(rows)).tolist() == [False, True]


def test_random_tokens_do_not_loop() -> None:
    # One 8-gram of 60 tokens of 1,000 ids meets another with a chance of 53²/2 · 1000⁻⁸ = 1e-21.
    rows = np.random.default_rng(1).integers(0, 1000, (2000, 60))
    assert not loops(*flat(rows.tolist())).any()
    # The same row twice is no loop within either.
    assert not loops(*flat([rows[0].tolist(), rows[0].tolist()])).any()


def test_a_loop_across_the_end_of_a_row_is_none() -> None:
    whole = [5] * 62
    assert loops(*flat([whole[:31], whole[31:]])).tolist() == [False, False]


@given(st.lists(st.lists(st.integers(0, 2), max_size=80), max_size=6), st.integers(1, 200))
def test_loops_are_what_the_definition_says(rows: list[list[int]], slice_tokens: int) -> None:
    expected = [any(len(part) >= 32 and repeated_share(part) > 0.5 for part in (row, row[-64:])) for row in rows]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("validations.measure.completions.SLICE_TOKENS", slice_tokens)
        assert loops(*flat(rows)).tolist() == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain\ttext\r\n", False), ("größer ≥ 3 – “π” 日本 🙂 👩‍👩‍👧 \u00a0\u200b", False), ("", False), (None, False),
        ("cut \ufffd", True), ("nul \x00", True), ("escape \x1b[0m", True), ("delete \x7f", True), ("c1 \x85", True),
        ("private \ue000", True), ("private \U000f0000", True), ("unassigned \u0378", False), ("form\x0cfeed", False),
        ("noncharacter \U0010ffff", False),
    ],
)  # fmt: skip
def test_is_garbled(text: str | None, expected: bool) -> None:
    assert is_garbled(texts("good", text, "gut é")).tolist() == [False, expected, False]


ENGLISH, CHINESE, RUSSIAN = "How many apples are left?", "小明还剩下几个苹果？", "Сколько яблок осталось?"


@pytest.mark.parametrize(
    ("prompt", "completion", "expected"),
    [
        (ENGLISH, "Three apples are left.", False),
        (ENGLISH, "小明还剩下三个苹果，答案是三", True),
        (ENGLISH, "Three apples are left. " + "因此答案是三个苹果", True),
        (ENGLISH, "The city is called 北京 in Chinese.", False),  # under 8 letters
        (ENGLISH, "Three apples are left, all told. " * 12 + "因此答案是三个苹果", False),  # 9 of 309: under 5 %
        (ENGLISH, "Μένουν τρία μήλα στο τραπέζι.", True),
        (ENGLISH, "2πr, α + β + γ = π, ∠ΑΒΓ, Δx·Δy, λ₁ λ₂ λ₃, Σ", False),
        (ENGLISH, "αβγ αβγ αβγ αβγ", False),  # products of three
        (ENGLISH, "µ Ω ℝ ℂ 𝐀𝐁𝐂𝐃𝐄𝐅𝐆𝐇𝐈 ∑∫≤", False),
        (ENGLISH + " αβγδ", "Μένουν τρία μήλα στο τραπέζι.", False),  # the prompt holds Greek
        (ENGLISH, "Il reste trois pommes à côté du garçon.", False),  # one script
        (CHINESE, "还剩下三个苹果，因此答案是 \\boxed{3}，\\frac{x}{y}，sin x, a, b, c, 5 cm", False),
        (CHINESE, "There are three apples left.", True),
        (RUSSIAN, "Осталось 三个苹果剩下所以三", True),
        ("りんごは？", "三個残計算結果漢字答", False),  # Japanese writes with both
        (CHINESE, "りんごがのこっています", True),
        (ENGLISH, "사과 세 개가 남아 있습니다", True),
        (ENGLISH, "तीन सेब बचे हैं मेज पर", True),
        (None, "There are three apples left.", True),
        (ENGLISH, None, False),
    ],
)
def test_strays(prompt: str | None, completion: str | None, expected: bool) -> None:
    prompts, completions = texts(RUSSIAN, prompt, ENGLISH), texts("Осталось три", completion, "Three")
    assert strays(completions, prompts).tolist() == [False, expected, False]


def test_a_word_ends_with_its_row() -> None:
    assert strays(texts("Μένουν αβ", "γδ"), texts(ENGLISH, ENGLISH)).tolist() == [False, False]
    assert strays(texts("\\", "Remaining"), texts(CHINESE, CHINESE)).tolist() == [False, True]


def test_strays_slice_by_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("validations.measure.completions.SLICE_BYTES", 100)
    completions = texts(*["Осталось три яблока.", "Three apples. 三"] * 20)
    assert strays(completions, texts(*[ENGLISH] * 40)).tolist() == [True, False] * 20


def test_text_hashes_are_equal_for_equal_pairs_alone() -> None:
    prompts = ["a", "a", "a", "ab", "", "b", "a\x00", None, "c", "é"]
    completions = ["b", "b", "c", "", "ab", "a", "b", "ab", "c", "é"]
    hashes = text_hashes(texts(*prompts), texts(*completions))
    pairs = [(prompt or "", completion) for prompt, completion in zip(prompts, completions, strict=True)]
    assert hashes.dtype == np.uint64
    assert hashes[0] == hashes[1]
    assert len(np.unique(hashes)) == len(set(pairs)) == 8


def test_many_hashes_are_all_different() -> None:
    numbers = [str(number) for number in range(200)]
    prompts, completions = zip(*[(left, right) for left in numbers for right in numbers], strict=True)
    assert len(np.unique(text_hashes(texts(*prompts), texts(*completions)))) == 40_000  # 64 bits: by chance 4e-11


def test_an_empty_batch() -> None:
    none, lists = texts(), flat([])
    assert ends_right(*lists, none, frozenset([1]), NOTHING).shape == (0,)
    assert decodes(*lists, none, none, frozenset([1]), NOTHING, decode).shape == (0,)
    assert loops(*lists).shape == is_garbled(none).shape == strays(none, none).shape == (0,)
    assert text_hashes(none, none).shape == (0,)


def test_a_slice_of_a_larger_array_or_chunks_are_taken() -> None:
    completions, prompts = texts("x", "Осталось три", "\ufffd"), texts("y", ENGLISH, ENGLISH)
    assert strays(completions.slice(1), prompts.slice(1)).tolist() == [True, False]
    assert is_garbled(completions.slice(1)).tolist() == [False, True]
    chunked = pa.chunked_array([completions.slice(0, 2), completions.slice(2)])
    assert is_garbled(chunked).tolist() == [False, False, True]
    assert (text_hashes(prompts, completions)[1:] == text_hashes(prompts.slice(1), completions.slice(1))).all()
