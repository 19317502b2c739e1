"""Tests of a dataset's metadata: written by a run, read back by anyone, whatever the files contain."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sampling.engine.detokenizer import decode
from tasks.config import PipelineConfig, PromptConfig
from tasks.run.dataset_metadata import FACTS, TOKENIZER, _turn, read_metadata, write_metadata
from tasks.source.example import Example
from tasks.source.recognition import choose_adapter
from tests.tasks.runs import make_config, make_report
from tests.tiny import EOS, byte_tokenizer
from validations.measure.metadata import DatasetMetadata, Turn, Vocabulary

DEMO = Path(__file__).parents[3] / "flows/demo/models"


@cache
def tokenizer(name: str) -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(DEMO / name)
    return loaded


def config_of(root: Path, **sections: Any) -> PipelineConfig:
    models = {name: {"model": str(DEMO / name)} for name in ("teacher", "theta")}
    return make_config(root, models=models, **sections)


def written(folder: Path, **sections: Any) -> DatasetMetadata:
    """Write the metadata of a run over the demo's models; return it as it is read back."""
    config = config_of(folder, **sections)
    hidden = choose_adapter(config.source, [*COLUMNS], [COLUMNS]).hidden_fields
    report = replace(make_report(config), hidden=hidden)
    write_metadata(folder, config, report, tokenizer("theta"), tokenizer("teacher"))
    return read_metadata(folder)


def known(metadata: DatasetMetadata) -> Vocabulary:
    assert metadata.vocabulary is not None, metadata.unknown
    return metadata.vocabulary


COLUMNS = {"question": "q", "answer": "a", "ask": "q", "gold": "a", "Final Answer": "a", "reward": {"truth": "a"}}
CHAT = {"style": "chat", "template": "{{ question }}"}


def test_a_runs_metadata_are_read_back(tmp_path: Path) -> None:
    prompts = {"theta": CHAT, "teacher": {"style": "plain", "template": "{{ question }} {{ solution }}"}}
    metadata = written(tmp_path, prompts=prompts, sampling={"stop_token_ids": [65, 66]})
    assert (metadata.kl_symmetric, metadata.teacher_sees_reference) == (True, True)
    assert (metadata.theta_turn, metadata.teacher_turn) == (Turn("Q: ", "\nA:"), None)
    vocabulary = known(metadata)
    eos = tokenizer("teacher").convert_tokens_to_ids(EOS)
    assert (vocabulary.eos_ids, vocabulary.stop_token_ids) == (frozenset([eos]), frozenset([65, 66]))
    assert (vocabulary.theta_bos, vocabulary.teacher_bos) == (tokenizer("theta").bos_token, None)


@pytest.mark.parametrize(
    ("template", "sees"),
    [
        ("{{ question }}", False),
        ("{{ question }} {{ answer }}", True),
        ("{% if final_answer %}{{ final_answer }}{% endif %}", True),
        ("{{ question }} answer: {# answer #}", False),
        ("{% set answer = 3 %}{{ answer }}", False),
    ],
)
def test_whether_the_teacher_sees_the_reference(tmp_path: Path, template: str, sees: bool) -> None:
    prompts = {"theta": CHAT, "teacher": {"style": "plain", "template": template}}
    assert written(tmp_path, prompts=prompts).teacher_sees_reference == sees


class Riddles:
    reference_columns = ("reply",)

    def example(self, row: dict[str, str]) -> Example:
        return Example(row["question"], row["reply"])


@pytest.mark.parametrize(
    ("source", "reference"),
    [
        ({"columns": {"question": "ask", "answer": "gold"}}, "gold"),
        ({"columns": {"question": "ask", "answer": "Final Answer"}}, "Final_Answer"),
        ({"columns": {"question": "ask", "answer": "reward.truth"}}, "reward"),
        ({"adapter": f"{__name__}:Riddles"}, "reply"),
    ],
)
def test_columns_that_contain_the_reference(tmp_path: Path, source: dict[str, Any], reference: str) -> None:
    for template, sees in ((f"{{{{ ask }}}} {{{{ {reference} }}}}", True), ("{{ ask }}", False)):
        prompts = {"theta": CHAT, "teacher": {"style": "plain", "template": template}}
        metadata = written(tmp_path, prompts=prompts, source={"path": "rows.jsonl", **source})
        assert metadata.teacher_sees_reference == sees


def test_another_alpha_is_not_kl_symmetric(tmp_path: Path) -> None:
    assert not written(tmp_path, mixture={"alpha_method": "entropy"}).kl_symmetric


def test_decoding_is_the_engines(tmp_path: Path) -> None:
    """Random ids, special tokens and torn characters among them."""
    vocabulary = known(written(tmp_path))
    rng = np.random.default_rng(0)
    size = len(tokenizer("teacher"))
    rows = [rng.integers(0, size, num).tolist() for num in (0, 1, 2, 50, 300) for _ in range(20)]
    rows += [[size - 1] * 3, [70, size - 1, 71]]
    assert vocabulary.decode(rows) == [decode(tokenizer("teacher"), row) for row in rows]
    assert vocabulary.decode([]) == []


@pytest.mark.parametrize("text", ["plain", "π ≠ 3, 东京 🙂🙂 é", "<script>\n\t \x00", ""])
def test_pieces_join_to_the_text(tmp_path: Path, text: str) -> None:
    vocabulary = known(written(tmp_path))
    ids = tokenizer("teacher").encode(text, add_special_tokens=False)
    pieces = vocabulary.pieces(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == text
    assert vocabulary.pieces([*ids, len(tokenizer("teacher")) - 1])[-1:] != [""]  # a special token is shown


def test_ids_of_no_vocabulary_are_no_text(tmp_path: Path) -> None:
    """A foreign dataset's ids may be negative, or past what the tokenizer's 32 bits hold."""
    vocabulary = known(written(tmp_path))
    (a, b) = tokenizer("teacher").encode("ab", add_special_tokens=False)
    for odd in (-1, 10**6, 2**32 - 1, 2**32, 2**62):
        assert vocabulary.decode([[a, odd, b], [a]]) == ["ab", "a"]
        assert "".join(vocabulary.pieces([a, odd, b])) == "ab"
    rng = np.random.default_rng(1)
    for _ in range(20):
        assert len(vocabulary.pieces(rng.integers(0, len(tokenizer("teacher")), 40).tolist())) == 40


def put(name: str, content: bytes | None) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)

    return change


def put_fact(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        facts = json.loads((folder / FACTS).read_bytes())
        for name, value in changes.items():
            facts.pop(name) if value is ... else facts.update({name: value})
        (folder / FACTS).write_text(json.dumps(facts))

    return change


def be_folder(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


@pytest.mark.parametrize(
    "change",
    [
        put(FACTS, None), put(FACTS, b"null"), put(FACTS, b"{"), put(FACTS, b"\xff\xfe"), put(FACTS, b"[" * 100_000),
        be_folder(FACTS), put(TOKENIZER, None), put(TOKENIZER, b"{}"), put(TOKENIZER, b"\xff"),
        put(TOKENIZER, b'{"model": {"type": "BPE"}}'), be_folder(TOKENIZER), put_fact(eos_ids=...),
        put_fact(eos_ids=["x"]), put_fact(eos_ids=[2**70]), put_fact(eos_ids=[-1]), put_fact(stop_token_ids={"a": 1}),
        put_fact(theta_turn="Q"), put_fact(teacher_turn={"before": "", "after": ""}), put_fact(theta_bos=5),
        put_fact(kl_symmetric="no"),
    ],
)  # fmt: skip
def test_unreadable_metadata_are_unknown(tmp_path: Path, change: Callable[[Path], None]) -> None:
    assert known(written(tmp_path))
    change(tmp_path)
    metadata = read_metadata(tmp_path)
    assert metadata == DatasetMetadata(unknown=metadata.unknown)
    assert FACTS in metadata.unknown
    assert "\n" not in metadata.unknown
    assert len(metadata.unknown) < 250


def replacing(pattern: dict[str, str], content: str, num: int = 1) -> list[dict[str, Any]]:
    return [{"type": "Replace", "pattern": pattern, "content": content}] * num


@pytest.mark.parametrize(
    ("parts", "is_known"),
    [
        (replacing({"String": "▁"}, " "), True),  # Llama's
        ([{"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}], True),
        (replacing({"String": "o"}, "oo", 40), False),
        (replacing({"String": ""}, ""), False),
        (replacing({"Regex": "(a+)+$"}, "o"), False),
        ([{"type": "Sequence", "decoders": replacing({"String": "a"}, "aa")}], False),
        ([{"type": "BPEDecoder", "suffix": ""}] * 12, False),
        ([{"type": "Fuse"}] * 40, False),
    ],
)
def test_a_decoder_that_multiplies_text_is_not_run(tmp_path: Path, parts: list[Any], is_known: bool) -> None:
    written(tmp_path)
    document = json.loads((tmp_path / TOKENIZER).read_text())
    document["decoder"] = {"type": "Sequence", "decoders": [document["decoder"], *parts]}
    (tmp_path / TOKENIZER).write_text(json.dumps(document))
    metadata = read_metadata(tmp_path)
    assert (metadata.vocabulary is not None) == is_known
    assert is_known or "decoder" in metadata.unknown


def test_other_keys_are_ignored(tmp_path: Path) -> None:
    written(tmp_path)
    put_fact(more={"a": 1}, theta_turn={"before": "a", "after": "b", "more": 3})(tmp_path)
    metadata = read_metadata(tmp_path)
    assert metadata.theta_turn == Turn("a", "b")
    assert read_metadata(tmp_path / "nowhere").unknown == f"there is no {FACTS} beside the dataset"


def test_no_code_of_a_model_is_run(tmp_path: Path) -> None:
    """A folder that, loaded by transformers, would run its own tokenizer."""
    written(tmp_path)
    mark = tmp_path / "was-run"
    for name in ("tokenization_own.py", "__init__.py", "modeling_own.py"):
        (tmp_path / name).write_text(f"open({str(mark)!r}, 'w').close()\nclass Own: pass\n")
    auto = {"auto_map": {"AutoTokenizer": ["tokenization_own.Own", None], "AutoConfig": "modeling_own.Own"}}
    for name in ("tokenizer_config.json", "config.json"):
        (tmp_path / name).write_text(json.dumps(auto))
    before = set(sys.modules)
    vocabulary = known(read_metadata(tmp_path))
    assert vocabulary.decode([tokenizer("teacher").encode("ok", add_special_tokens=False)]) == ["ok"]
    assert not mark.exists()
    assert not any("own" in name.split(".")[-1] for name in set(sys.modules) - before)


@pytest.mark.parametrize(
    ("template", "turn"),
    [
        (
            "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}<|assistant|>",
            {"before": "<|user|>", "after": "\n<|assistant|>"},
        ),
        ("{{ messages[0].content }}", None),  # no text around it
        ("{{ raise_exception('no') }}", None),
        ("{{ 1 / 0 }}", None),
        ("{% for m in messages %}[{{ m.content | upper }}]{% endfor %}", None),  # the markers are not found again
        ("{% if messages | length > 1 %}{{ raise_exception('one turn') }}{% endif %}<{{ messages[0].content }}>", None),
        ("{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
         "{% for m in messages %}<{{ m.content }}>{% endfor %}", {"before": "<", "after": ">"}),
        ("{% for m in messages %}{% if m.role == 'system' %}[SYS]{{ m.content }}[/SYS]{% else %}<{{ m.content }}>"
         "{% endif %}{% endfor %}", {"before": "<", "after": ">"}),
    ],
)  # fmt: skip
def test_turns_of_odd_templates(template: str, turn: dict[str, str] | None) -> None:
    fast = byte_tokenizer()
    fast.chat_template = template
    assert _turn(fast, PromptConfig.model_validate(CHAT)) == turn
    assert _turn(fast, PromptConfig(style="plain", template="x")) is None
