"""What a run knows of its dataset, written beside it so that it can be judged anywhere, without the models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from jinja2.meta import find_undeclared_variables
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from sampling.models.folder import eos_ids
from sampling.prompts.sandbox import SANDBOX
from tasks.config import PipelineConfig, PromptConfig, PromptsConfig
from tasks.source.formats import KNOWN_ADAPTERS
from tasks.store.durable import write_bytes, write_json
from validations.measure.metadata import DatasetMetadata, Turn, Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FACTS, TOKENIZER = "facts.json", "tokenizer.json"
NO_TOKEN = 2**32 - 1  # an id that no vocabulary has: nothing is decoded of it
ASKED, ANSWERED, ASKED_AGAIN = "\ue000asked\ue001", "\ue000answered\ue001", "\ue000again\ue001"
TOLD = "\ue000told\ue001"


class _Turn(BaseModel):
    before: str = Field(min_length=1)
    after: str = Field(min_length=1)

    def as_turn(self) -> Turn:
        return Turn(self.before, self.after)


class _Written(BaseModel):
    """facts.json: what another hand wrote is of these types, or is not known."""

    model_config = ConfigDict(strict=True)

    kl_symmetric: bool
    teacher_sees_reference: bool
    theta_turn: _Turn | None
    teacher_turn: _Turn | None
    eos_ids: frozenset[Annotated[int, Field(ge=0, lt=2**31)]]
    stop_token_ids: frozenset[Annotated[int, Field(ge=0, lt=2**31)]]
    theta_bos: str | None
    teacher_bos: str | None


def write_metadata(
    folder: Path,
    config: PipelineConfig,
    prompts: PromptsConfig,
    theta: PreTrainedTokenizerBase,
    teacher: PreTrainedTokenizerBase,
) -> None:
    """Write facts.json with the tokenizer.json that completions are decoded with; `prompts` are resolved."""
    assert prompts.theta is not None
    assert prompts.teacher is not None
    hidden = frozenset().union(*(adapter.hidden_fields for adapter in KNOWN_ADAPTERS))
    if config.source.columns:  # own mapping: the reference's columns by their own names
        hidden |= {column for name, column in config.source.columns.items() if name != "question"}
    named = find_undeclared_variables(SANDBOX.parse(prompts.teacher.template))
    facts = {
        "kl_symmetric": config.mixture.alpha_method == "kl_symmetry",
        "teacher_sees_reference": bool(named & hidden),
        "theta_turn": _turn(theta, prompts.theta),
        "teacher_turn": _turn(teacher, prompts.teacher),
        "eos_ids": sorted(eos_ids(config.models.theta) | eos_ids(config.models.teacher)),
        "stop_token_ids": list(config.sampling.stop_token_ids),
        "theta_bos": theta.bos_token,
        "teacher_bos": teacher.bos_token,
    }
    write_bytes(folder / TOKENIZER, teacher.backend_tokenizer.to_str().encode())
    write_json(folder / FACTS, facts)


def read_metadata(folder: Path) -> DatasetMetadata:
    """The facts beside a dataset. What is not there, or not readable, is not known; no code of a model is run."""
    try:
        if not (folder / FACTS).exists():
            return DatasetMetadata(unknown=f"there is no {FACTS} beside the dataset")
        known = _Written.model_validate_json((folder / FACTS).read_bytes())
        backend = Tokenizer.from_str((folder / TOKENIZER).read_text(encoding="utf-8"))
        return DatasetMetadata(
            kl_symmetric=known.kl_symmetric,
            teacher_sees_reference=known.teacher_sees_reference,
            theta_turn=known.theta_turn.as_turn() if known.theta_turn else None,
            teacher_turn=known.teacher_turn.as_turn() if known.teacher_turn else None,
            vocabulary=_vocabulary(backend, known),
        )
    except Exception as error:  # the tokenizers library raises bare Exception; a foreign file may hold anything
        said = " ".join(str(error).split())[:100]
        return DatasetMetadata(unknown=f"{FACTS} or {TOKENIZER} cannot be read ({type(error).__name__}: {said})")


def _vocabulary(backend: Tokenizer, known: _Written) -> Vocabulary:
    def decode(many: list[list[int]]) -> list[str]:
        try:
            texts: list[str] = backend.decode_batch(many, skip_special_tokens=True)
        except OverflowError:  # a foreign id that is negative, or past 32 bits
            known_ids = [[token_id if 0 <= token_id < NO_TOKEN else NO_TOKEN for token_id in row] for row in many]
            texts = backend.decode_batch(known_ids, skip_special_tokens=True)
        return texts

    def pieces(token_ids: Sequence[int]) -> list[str]:
        stream = DecodeStream(skip_special_tokens=False)
        known_ids = (token_id if 0 <= token_id < NO_TOKEN else NO_TOKEN for token_id in token_ids)
        return [stream.step(backend, token_id) or "" for token_id in known_ids]

    return Vocabulary(
        decode=decode,
        pieces=pieces,
        eos_ids=known.eos_ids,
        stop_token_ids=known.stop_token_ids,
        theta_bos=known.theta_bos,
        teacher_bos=known.teacher_bos,
    )


def _turn(tokenizer: PreTrainedTokenizerBase, prompt: PromptConfig) -> dict[str, str] | None:
    """What the chat template writes around a user's turn, seen on a probe; None where it cannot be told."""
    if prompt.style == "plain":
        return None
    probe = [
        {"role": "user", "content": ASKED},
        {"role": "assistant", "content": ANSWERED},
        {"role": "user", "content": ASKED_AGAIN},
    ]
    try:
        one = tokenizer.apply_chat_template(probe[:1], tokenize=False, add_generation_prompt=True)
        three = tokenizer.apply_chat_template(probe, tokenize=False, add_generation_prompt=True)
    except Exception:  # a chat template may raise anything, on purpose too
        return None
    assert isinstance(one, str)
    assert isinstance(three, str)
    head, found, after = one.partition(ASKED)
    between = three.partition(ANSWERED)[2].partition(ASKED_AGAIN)[0]
    before = _common_end(head, between)
    try:
        told = tokenizer.apply_chat_template([{"role": "system", "content": TOLD}, *probe[:1]], tokenize=False)
    except Exception:  # some know no system message
        told = ""
    assert isinstance(told, str)
    first, told_found, last = told.partition(ASKED)[0].partition(TOLD)
    if told_found and before not in first:  # else the system message is a part of the user's turn
        before = _common_end(before, last)
    return {"before": before, "after": after} if found and before and after else None


def _common_end(one: str, other: str) -> str:
    """The longest text that both end with."""
    num = 0
    while num < min(len(one), len(other)) and one[-1 - num] == other[-1 - num]:
        num += 1
    return one[len(one) - num :]
