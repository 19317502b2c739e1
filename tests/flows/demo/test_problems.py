"""Tests of the demo's problems, its tokenizer and the shipped model folders."""

import json
import operator
import random
import re
from pathlib import Path

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from flows.demo import problems as demo_problems
from flows.demo.problems import STYLES, final_answer, generate_problems, in_own_words, prompt, split_of

MODELS = Path(demo_problems.__file__).parent / "models"
NAMES = ("teacher", "theta")
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}


def numbers_of(question: str) -> tuple[int, int]:
    a, b = map(int, re.findall(r"\d+", question))
    return a, b


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(MODELS / "theta" / "tokenizer.json"))


def test_worked_answer_is_right() -> None:
    seen = set()
    for problem in generate_problems(2000, seed=3):
        step, final = problem["answer"].split("\n")
        [(a, sign, b, result)] = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", step)
        assert sorted(numbers_of(problem["question"])) == sorted([int(a), int(b)])
        assert OPERATIONS[sign](int(a), int(b)) == int(result) > 0
        assert sign != "/" or int(result) * int(b) == int(a)
        assert final == f"#### {result}"
        seen.add(sign)
    assert seen == set(OPERATIONS)


def test_styles_change_the_wording_and_not_the_answer() -> None:
    """Over 2,000 problems each wording has its style's share; 5 standard deviations are 0.056 at the most."""
    problems = generate_problems(2000, seed=4)
    for style, (openings, links, remarks) in STYLES.items():
        assert all(sum(weights) == pytest.approx(1) for weights in (openings, links, remarks))
        rng = random.Random(0)
        worded = [in_own_words(problem["answer"], style, rng) for problem in problems]
        for problem, text in zip(problems, worded, strict=True):
            assert final_answer(text) == final_answer(problem["answer"])
            assert re.findall(r"\d+", text) == re.findall(r"\d+", problem["answer"])
        share = sum(text.startswith("This makes") for text in worded) / len(worded)
        assert share == pytest.approx(openings[3], abs=0.06)
    assert STYLES["theta"] != STYLES["teacher"]


def test_same_seed_same_problems() -> None:
    first = generate_problems(200, seed=7)
    assert first == generate_problems(200, seed=7)
    assert first[:50] == generate_problems(50, seed=7)
    assert first != generate_problems(200, seed=8)
    # If this changes, the shipped models no longer match their training script.
    assert first[0] == {
        "question": "Mia shares 240 cards among 6 friends. How many cards has each friend?",
        "answer": "This makes 240 / 6 = 40 cards.\n#### 40",
    }


def test_splits_share_no_pair_of_numbers() -> None:
    pairs = {
        split: {frozenset(numbers_of(p["question"])) for p in generate_problems(4000, seed=1, split=split)}
        for split in ("train", "held_out")
    }
    assert pairs["train"].isdisjoint(pairs["held_out"])
    # The split is a function of the pair, so what holds for these draws holds for all.
    for split, members in pairs.items():
        for a, b in (tuple(pair) if len(pair) == 2 else (*pair, *pair) for pair in members):
            assert split_of(a, b) == split_of(b, a) == split


def test_questions_differ_within_a_call() -> None:
    assert len({p["question"] for p in generate_problems(3000, seed=2)}) == 3000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("That is 3 + 4 = 7 nuts.\n#### 7", "7"),
        ("#### 1\n#### 1,234 coins", "1234"),
        ("#### -5", "-5"),
        ("It is 7.", None),
        ("#### none", None),
        ("", None),
    ],
)
def test_final_answer_reads_the_last_mark(text: str, expected: str | None) -> None:
    assert final_answer(text) == expected


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_round_trips(tokenizer: Tokenizer, text: str) -> None:
    # EOS is the only special token.
    text = text.replace("<|endoftext|>", "")
    token_ids = tokenizer.encode(text).ids
    assert tokenizer.decode(token_ids, skip_special_tokens=False) == text
    assert 0 not in token_ids


def test_every_byte_has_a_token(tokenizer: Tokenizer) -> None:
    # U+0000 to U+FFFF without the surrogates, then the leads of four-byte codes: every byte that UTF-8 uses.
    text = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x10000), 0x10000, 0x50000, 0x90000, 0xD0000, 0x10FFFF]))
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_digits_stand_alone(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(prompt("Mia has 1234 nuts, 56 beads. 7?", "#### 890")).tokens
    assert [t for t in tokens if any(c.isdigit() for c in t)] == list("1234567890")


def test_models_share_the_tokenizer() -> None:
    teacher, theta = (json.loads((MODELS / name / "tokenizer.json").read_text()) for name in NAMES)
    assert teacher == theta


def test_shipped_folders_are_small() -> None:
    assert sum(path.stat().st_size for path in MODELS.rglob("*") if path.is_file()) <= 8_000_000


@pytest.mark.parametrize("name", NAMES)
def test_configuration_facts(tokenizer: Tokenizer, name: str) -> None:
    config = json.loads((MODELS / name / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["tie_word_embeddings"] is True
    assert config["vocab_size"] >= tokenizer.get_vocab_size()
    end_id = tokenizer.token_to_id("<|endoftext|>")
    assert json.loads((MODELS / name / "generation_config.json").read_text())["eos_token_id"] == [end_id]
    # no BOS
    assert tokenizer.encode("").ids == []
    assert (MODELS / name / "model.safetensors").is_file()


def test_widths_differ() -> None:
    widths = {json.loads((MODELS / name / "config.json").read_text())["vocab_size"] for name in NAMES}
    assert len(widths) == 2


@pytest.mark.parametrize("name", NAMES)
def test_chat_template_renders_the_training_format(name: str) -> None:
    settings = json.loads((MODELS / name / "tokenizer_config.json").read_text())
    template = jinja2.Environment().from_string(settings["chat_template"])
    messages = [{"role": "user", "content": "How many?\nHint: #### 7"}]
    rendered = template.render(messages=messages, add_generation_prompt=True)
    assert rendered == prompt("How many?", "#### 7")
    system = {"role": "system", "content": "Be brief."}
    answer = {"role": "assistant", "content": "#### 7"}
    rendered = template.render(messages=[system, *messages, answer], add_generation_prompt=False)
    assert rendered == f"Be brief.\n{prompt('How many?', '#### 7')} #### 7<|endoftext|>\n"
