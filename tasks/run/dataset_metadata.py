"""The metadata of a dataset, written beside it so that it can be judged anywhere, without the models."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from jinja2.meta import find_undeclared_variables
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from sampling.models.ending import model_ending_ids
from sampling.prompts.sandbox import SANDBOX
from sampling.prompts.templates import Prompt, PromptTemplate, Row
from tasks.config import PipelineConfig, PromptConfig
from tasks.source.rows import SourceReport
from tasks.store.durable import write_bytes, write_json
from validations.measure.metadata import DatasetMetadata, Turn, Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FACTS, TOKENIZER = "facts.json", "tokenizer.json"
MAX_DECODERS = 16  # parts; those of known models have 5 at most
NO_TOKEN = 2**32 - 1  # an id of no vocabulary, which decodes to nothing
SYSTEM, USER, ASSISTANT, USER_AGAIN = (f"\ue000{name}\ue001" for name in ("system", "asked", "answered", "again"))
TokenIds = frozenset[Annotated[int, Field(ge=0, lt=2**31)]]


class _Turn(BaseModel):
    before: str = Field(min_length=1)
    after: str = Field(min_length=1)

    def as_turn(self) -> Turn:
        return Turn(self.before, self.after)


class _Facts(BaseModel):
    """The content of facts.json, validated, because another program may have written it."""

    model_config = ConfigDict(strict=True)

    kl_symmetric: bool
    teacher_sees_reference: bool
    theta_turn: _Turn | None
    teacher_turn: _Turn | None
    eos_ids: TokenIds
    stop_token_ids: TokenIds
    theta_bos: str | None
    teacher_bos: str | None


def write_metadata(
    folder: Path,
    config: PipelineConfig,
    report: SourceReport,
    theta: PreTrainedTokenizerBase,
    teacher: PreTrainedTokenizerBase,
) -> None:
    """Write facts.json, and tokenizer.json, which decodes completions."""
    prompts = report.prompts
    assert prompts.theta is not None
    assert prompts.teacher is not None
    named = find_undeclared_variables(SANDBOX.parse(prompts.teacher.template + (prompts.teacher.system or "")))
    facts = {
        "kl_symmetric": config.mixture.alpha_method == "kl_symmetry",
        "teacher_sees_reference": bool(named & report.hidden),
        "theta_turn": _turn(theta, prompts.theta),
        "teacher_turn": _turn(teacher, prompts.teacher),
        "eos_ids": sorted(
            {*model_ending_ids(config.models.theta, theta), *model_ending_ids(config.models.teacher, teacher)}
        ),
        "stop_token_ids": list(config.sampling.stop_token_ids),
        "theta_bos": theta.bos_token,
        "teacher_bos": teacher.bos_token,
    }
    write_bytes(folder / TOKENIZER, teacher.backend_tokenizer.to_str().encode())
    write_json(folder / FACTS, facts)


def read_metadata(folder: Path) -> DatasetMetadata:
    """Return the metadata beside a dataset; missing or unreadable files make it unknown. No code of a model is run."""
    try:
        if not (folder / FACTS).exists():
            return DatasetMetadata(unknown=f"there is no {FACTS} beside the dataset")
        facts = _Facts.model_validate_json((folder / FACTS).read_bytes())
        text = (folder / TOKENIZER).read_text(encoding="utf-8")
        _check_decoder(json.loads(text).get("decoder"))
        backend = Tokenizer.from_str(text)
        return DatasetMetadata(
            kl_symmetric=facts.kl_symmetric,
            teacher_sees_reference=facts.teacher_sees_reference,
            theta_turn=facts.theta_turn.as_turn() if facts.theta_turn else None,
            teacher_turn=facts.teacher_turn.as_turn() if facts.teacher_turn else None,
            vocabulary=_vocabulary(backend, facts),
        )
    except Exception as error:  # the tokenizers library raises bare Exception; a foreign file may hold anything
        reason = " ".join(str(error).split())[:100]
        return DatasetMetadata(unknown=f"{FACTS} or {TOKENIZER} cannot be read ({type(error).__name__}: {reason})")


def _check_decoder(decoder: object) -> None:
    """Raise ValueError for a decoder that may multiply text, or search it with a regular expression."""
    waiting, num_parts = [decoder], 0
    while waiting:
        part = waiting.pop()
        if not isinstance(part, dict):
            continue
        num_parts += 1
        waiting += part.get("decoders", [])
        pattern, kind = part.get("pattern"), part.get("type")
        old = pattern.get("String") if isinstance(pattern, dict) else None
        if kind == "Replace" and not (old and len(part["content"].encode()) <= len(old.encode())):
            raise ValueError("its decoder replaces a pattern, or a text by a longer one")
        # An empty text is found between any two characters.
        if num_parts > MAX_DECODERS or "" in (part.get("suffix"), part.get("word_delimiter_token")):
            raise ValueError(f"its decoder may multiply text, or has over {MAX_DECODERS} parts")


def _vocabulary(backend: Tokenizer, facts: _Facts) -> Vocabulary:
    def known(token_ids: Sequence[int]) -> list[int]:  # a foreign id may be negative, or not fit in 32 bits
        return [token_id if 0 <= token_id < NO_TOKEN else NO_TOKEN for token_id in token_ids]

    def decode(rows: list[list[int]]) -> list[str]:
        try:
            texts: list[str] = backend.decode_batch(rows, skip_special_tokens=True)
        except OverflowError:
            texts = backend.decode_batch([known(row) for row in rows], skip_special_tokens=True)
        return texts

    def pieces(token_ids: Sequence[int]) -> list[str]:
        stream = DecodeStream(skip_special_tokens=False)
        return [stream.step(backend, token_id) or "" for token_id in known(token_ids)]

    return Vocabulary(
        decode=decode,
        pieces=pieces,
        eos_ids=facts.eos_ids,
        stop_token_ids=facts.stop_token_ids,
        theta_bos=facts.theta_bos,
        teacher_bos=facts.teacher_bos,
    )


def _turn(tokenizer: PreTrainedTokenizerBase, prompt: PromptConfig) -> dict[str, str] | None:
    """Return what the chat template writes around a user's turn, found by rendering markers; None if not found."""
    if prompt.style == "plain":
        return None
    kwargs = prompt.chat_template_kwargs
    template = PromptTemplate(tokenizer, style="chat", template="{{ text }}", chat_template_kwargs=kwargs)
    system, user, assistant = (
        {"role": role, "content": text} for role, text in (("system", SYSTEM), ("user", USER), ("assistant", ASSISTANT))
    )
    first, all_three, with_system = (
        result.text if isinstance(result, Prompt) else ""  # some templates accept no system message
        for result in template.prompts(
            [Row({"text": USER}), Row({"text": USER_AGAIN}, [user, assistant]), Row({"text": USER}, [system])]
        )
    )
    if not first or not all_three:
        return None
    head, found, after = first.partition(USER)
    between = all_three.partition(ASSISTANT)[2].partition(USER_AGAIN)[0]
    before = _common_suffix(head, between)
    before_system, system_found, after_system = with_system.partition(USER)[0].partition(SYSTEM)
    if system_found and before not in before_system:  # else the system message is a part of the user's turn
        before = _common_suffix(before, after_system)
    return {"before": before, "after": after} if found and before and after else None


def _common_suffix(one: str, other: str) -> str:
    return os.path.commonprefix([one[::-1], other[::-1]])[::-1]  # noqa: RUF071  (of texts, not paths)
