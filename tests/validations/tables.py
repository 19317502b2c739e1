"""Datasets that pass every check, for tests to break one thing in."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers.decoders import DecodeStream

from sampling.record import to_record_table
from sampling.results import FinishReason
from tests.tasks.outputs import EOS_ID, byte_speller, make_output
from validations.measure.metadata import DatasetMetadata, Quarantine, Turn, Vocabulary

TURN = Turn(before="<|user|>", after="\n<|assistant|>")
BOS = "<s>"


def vocabulary() -> Vocabulary:
    """Return the vocabulary of the byte tokenizer."""
    backend = byte_speller().backend_tokenizer

    def pieces(token_ids: Any) -> list[str]:
        stream = DecodeStream(skip_special_tokens=False)
        return [stream.step(backend, token_id) or "" for token_id in token_ids]

    return Vocabulary(
        decode=lambda many: backend.decode_batch(many, skip_special_tokens=True),
        pieces=pieces,
        eos_ids=frozenset([EOS_ID]),
        stop_token_ids=frozenset(),
        theta_bos=BOS,
        teacher_bos=BOS,
    )


def facts(**changes: Any) -> DatasetMetadata:
    """Return metadata in which every value is known."""
    known: dict[str, Any] = {
        "teacher_sees_reference": True,
        "theta_turn": TURN,
        "teacher_turn": TURN,
        "vocabulary": vocabulary(),
        "quarantine": Quarantine({}, 0, 1),
        **changes,
    }
    return DatasetMetadata(**known)


def made_row(
    i: int, sample_idx: int = 0, finish_reason: FinishReason = "eos", text: str | None = None
) -> dict[str, Any]:
    """Return row i of a dataset: a question, its two prompts, a right answer of some 30 tokens."""
    answer = i + 1000
    text = f"Row {i} of {sample_idx} makes\n#### {answer}" if text is None else text
    output = make_output(f"{i:032x}", sample_idx, finish_reason=finish_reason, text=text)
    question = f"What is {i} plus a thousand?"
    return {
        **to_record_table([output]).to_pylist()[0],
        "theta_prompt": f"{BOS}<|user|>{question}\n<|assistant|>",
        "teacher_prompt": f"{BOS}<|user|>{question}\nHint: {answer}\n<|assistant|>",
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": text}],
        "example": {
            "question": question,
            "answer": f"{i} + 1000\n#### {answer}",
            "solution": None,
            "final_answer": str(answer),
        },
    }


def made_rows(num_rows: int = 24, **settings: Any) -> list[dict[str, Any]]:
    """Return rows 0, 1, 2, …"""
    return [made_row(i, **settings) for i in range(num_rows)]


TEXT = pa.string()
SCHEMA = pa.schema(
    [
        *to_record_table([]).schema.remove_metadata(),
        pa.field("theta_prompt", TEXT),
        pa.field("teacher_prompt", TEXT),
        pa.field("messages", pa.list_(pa.struct([("role", TEXT), ("content", TEXT)]))),
        pa.field("example", pa.struct([(n, TEXT) for n in ("question", "answer", "solution", "final_answer")])),
    ]
)
SCHEMA = pa.schema([field.with_nullable(True) for field in SCHEMA])


def to_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Return rows as the table that the pipeline publishes."""
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def written(folder: Path, *tables: pa.Table, row_group_size: int | None = None) -> list[Path]:
    """Write tables as Parquet files."""
    paths = [folder / f"train-{i:05d}.parquet" for i in range(len(tables))]
    for path, table in zip(paths, tables, strict=True):
        pq.write_table(table, path, row_group_size=row_group_size)
    return paths


def write_known(folder: Path) -> None:
    """Write `facts()` into a dataset's folder: facts.json and tokenizer.json."""
    known: dict[str, Any] = {"kl_symmetric": True, "teacher_sees_reference": True}
    known |= {"theta_turn": asdict(TURN), "teacher_turn": asdict(TURN)}
    known |= {"eos_ids": [EOS_ID], "stop_token_ids": [], "theta_bos": BOS, "teacher_bos": BOS}
    (folder / "facts.json").write_text(json.dumps(known))
    (folder / "tokenizer.json").write_text(byte_speller().backend_tokenizer.to_str())


def changed(
    rows: list[dict[str, Any]], change: Callable[[dict[str, Any]], None], *indices: int
) -> list[dict[str, Any]]:
    """Apply `change` to some of the rows."""
    for index in indices:
        change(rows[index])
    return rows
