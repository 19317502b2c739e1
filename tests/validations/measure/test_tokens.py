"""Checks of token lists: read from any writer's columns, never failed by what the mixture makes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from sampling import MixtureConfig, SamplingConfig
from sampling.engine.request import _diagnostics
from sampling.mixture.draw import argmax_indices, draw_indices
from sampling.mixture.mixture import mix
from sampling.mixture.torch_draw import _diagnostics_of
from sampling.record import RECORD_SCHEMA, to_record_table
from sampling.results import DIAGNOSTICS, MODES, DualOutput, TokenDiagnostics
from tests.tasks.outputs import make_output
from validations.measure.tokens import flatten, judge_tokens, max_kl_error, metrics_match_tokens

INF = math.inf
NUM_IDS, BATCH, TOKENS = 300, 16, 8  # tokens a completion
Logits = tuple[Tensor, Tensor]


def noise(seed: int, scale: float) -> Tensor:
    return torch.randn(BATCH, NUM_IDS, generator=torch.Generator().manual_seed(seed)) * scale


def with_holes(seed: int, scale: float) -> Tensor:
    logits = noise(seed, scale)
    return logits.masked_fill(noise(seed + 1, 1.0) < 0, -INF)


def one_hot() -> Tensor:
    logits = torch.full((BATCH, NUM_IDS), -INF)
    logits[torch.arange(BATCH), torch.arange(BATCH)] = 3.0
    return logits


def sharp(scale: float) -> Tensor:
    logits = torch.zeros(BATCH, NUM_IDS)
    logits[:, 5] = 20 * scale
    return logits


PAIRS: dict[str, Callable[[float], Logits]] = {
    "independent": lambda scale: (noise(0, scale), noise(1, scale)),
    "near": lambda scale: (noise(0, scale), noise(0, scale) + noise(1, scale / 10)),
    "equal": lambda scale: (noise(0, scale), noise(0, scale)),
    "theta one-hot": lambda scale: (one_hot(), noise(1, scale)),
    "teacher one-hot": lambda scale: (noise(0, scale), one_hot()),
    "theta rules out": lambda scale: (with_holes(2, scale), noise(1, scale)),
    "teacher rules out": lambda scale: (noise(0, scale), with_holes(4, scale)),
    "both rule out": lambda scale: (with_holes(2, scale), with_holes(4, scale)),
    "theta sharp": lambda scale: (sharp(scale), noise(1, scale)),
    "teacher sharp": lambda scale: (noise(0, scale), sharp(scale)),
    "bfloat16": lambda scale: (noise(0, scale).bfloat16(), noise(1, scale).bfloat16()),
}
FIELDS = fields(TokenDiagnostics)
METHODS = [("kl_symmetry", 0.5), ("ess_balance", 0.5), ("entropy", 0.5), ("fixed", 0.3), ("fixed", 0.0), ("fixed", 1.0)]
CUTS: list[dict[str, Any]] = [{}, {"top_k": 7, "top_p": 0.9, "min_p": 0.01}]


def drawn(logits: Logits, config: MixtureConfig, sampling: SamplingConfig) -> pa.Table:
    """Return completions of eight tokens as the engine records them: its own draw, diagnostics and rounding."""
    positions = torch.arange(BATCH) % TOKENS
    got = mix(*logits, positions == 0, NUM_IDS, config, sampling)
    assert got.finite.all()
    rows = torch.arange(BATCH) // TOKENS
    greedy = sampling.temperature == 0
    indices = argmax_indices(got.log_q) if greedy else draw_indices(got.log_q, 7, rows, positions)
    token_ids = got.ids.gather(-1, indices[:, None])
    metrics = _diagnostics_of(got, token_ids, indices[:, None])[:, : len(DIAGNOSTICS)].numpy()
    return to_record_table(
        [
            DualOutput(f"{i}", 0, "", (1,) * TOKENS, "length", 1, 1, _diagnostics(metrics[i : i + TOKENS].T))
            for i in range(0, BATCH, TOKENS)
        ]
    )


def settings() -> Iterator[tuple[MixtureConfig, SamplingConfig, str]]:
    for preset in ("conservative", "balanced", "exploratory"):
        for method, alpha in METHODS:
            config = MixtureConfig.model_validate({"preset": preset, "alpha_method": method, "alpha": alpha})
            for cuts in CUTS:
                for temperature in (0.0, 0.05, 1.0, 100.0):
                    sampling = SamplingConfig.model_validate({"temperature": temperature, **cuts})
                    yield config, sampling, f"{preset} {method} {alpha} T={temperature} {cuts}"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: the tensors are small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("scale", [2.0, 100.0])
@pytest.mark.parametrize("pair", PAIRS)
def test_what_the_mixture_makes_is_never_refused(pair: str, scale: float) -> None:
    """No false refusals for any preset, method, cut and temperature, at both ends of the logits' scale."""
    logits, modes = PAIRS[pair](scale), set()
    for config, sampling, what in settings():
        table = drawn(logits, config, sampling)
        tokens = flatten(table)
        assert len(tokens) == BATCH
        largest = max_kl_error(tokens)
        good = {**judge_tokens(tokens), "figures_follow": metrics_match_tokens(table, tokens, largest)}
        assert [name for name, kept in good.items() if not kept.all()] == [], what
        if config.alpha_method == "kl_symmetry":
            assert not (largest > 1e-6).any(), what
        modes.update(tokens.mode.tolist())
    assert {0, 1} <= modes  # mixed and forced ones among them


def diagnostics(**changes: Any) -> TokenDiagnostics:
    """Return a mixed token that passes every check, but for the changes."""
    values: dict[str, Any] = {
        "alpha": 0.5, "kl_theta": 0.25, "kl_teacher": 0.25, "kl_error": 0.0, "js": 0.1, "overlap_mass": 0.9,
        "overlap_count": 9, "support_size": 30, "entropy": 2.0, "ess_ratio": 1.0, "log_z": -0.25, "logprob_q": -1.75,
        "logprob_theta": -3.0, "logprob_teacher": -1.0, "q_error": 0.0, "js_error": 0.0, "mode": 0, **changes,
    }  # fmt: skip
    kinds = {"overlap_count": np.int32, "support_size": np.int32, "mode": np.uint8}
    return TokenDiagnostics(
        **{field.name: np.array([values[field.name]], kinds.get(field.name, np.float32)) for field in FIELDS}
    )


def broken(**changes: Any) -> list[str]:
    table = to_record_table([DualOutput("a", 0, "", (1,), "length", 1, 1, diagnostics(**changes))])
    return [name for name, kept in judge_tokens(flatten(table)).items() if not kept.all()]


ALONE = {"alpha": 1.0, "log_z": 0.0, "logprob_q": -1.0, "logprob_teacher": -1.0}
IMPOSSIBLE = {"logprob_theta": -INF, "kl_theta": INF, "kl_error": INF}


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, []),
        # Impossible under the model that has no weight: true, whichever mode.
        ({**ALONE, **IMPOSSIBLE, "mode": 1}, []),
        ({**ALONE, **IMPOSSIBLE, "mode": 2}, []),
        ({**ALONE, **IMPOSSIBLE, "mode": 0}, []),
        ({"alpha": 0.0, "logprob_teacher": -INF, "kl_teacher": INF, "kl_error": INF, "log_z": 0.0,
          "logprob_theta": -3.0, "logprob_q": -3.0}, []),
        # Impossible under a model that has weight: no token of q*.
        ({"logprob_theta": -INF}, ["is_finite"]),
        ({"logprob_teacher": -INF}, ["is_finite"]),
        ({"kl_theta": INF, "kl_error": INF}, ["is_finite"]),
        ({**ALONE, "mode": 2, "logprob_teacher": -INF}, ["is_finite"]),
        ({**ALONE, "mode": 2, "logprob_theta": math.nan}, ["is_finite"]),
        ({**ALONE, "mode": 1, "kl_error": math.nan}, ["is_finite"]),
        ({"log_z": -INF, "logprob_q": INF}, ["is_finite", "logprobs_not_positive"]),
        # A difference just past rounding.
        ({"logprob_q": -1.7507}, ["q_is_consistent"]),
        ({"logprob_q": -1.74999}, []),
        ({"kl_error": 3e-6}, []),
        ({"kl_error": 9e-6}, ["kl_error_is_the_kls_distance"]),
        ({"js": 0.6931473}, []),
        ({"js": 0.69316}, ["js_in_range"]),
        ({"entropy": math.log(30)}, []),
        ({"entropy": math.log(31)}, ["entropy_in_range"]),
        ({"support_size": 0, "entropy": 0.0}, []),
    ],
)  # fmt: skip
def test_one_token(changes: dict[str, Any], names: list[str]) -> None:
    assert broken(**changes) == names


def three(*lengths: int) -> pa.Table:
    return to_record_table([make_output(f"{i}", 0, length) for i, length in enumerate(lengths)])


def wide(table: pa.Table) -> pa.Table:
    """Return the table as another writer stores it: 64 bits, large texts and lists."""

    def wider(kind: pa.DataType) -> pa.DataType:
        if pa.types.is_list(kind):
            return pa.large_list(wider(kind.value_type))
        return {pa.int32(): pa.int64(), pa.float32(): pa.float64(), pa.string(): pa.large_string()}[kind]

    return table.cast(pa.schema([pa.field(field.name, wider(field.type)) for field in table.schema]))


def test_flat_lists_are_the_rows_end_to_end() -> None:
    table = three(3, 1, 5)
    tokens = flatten(table)
    assert tokens.starts.tolist() == [0, 3, 4, 9]
    assert tokens.row.tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 2]
    assert tokens.position.tolist() == [0, 1, 2, 0, 0, 1, 2, 3, 4]
    assert tokens.token_ids.tolist() == [token for row in table["token_ids"].to_pylist() for token in row]
    assert [MODES[mode] for mode in tokens.mode] == [mode for row in table["mode"].to_pylist() for mode in row]
    for name, column in tokens.columns.items():
        np.testing.assert_array_equal(column, np.concatenate(table[name].to_pylist()).astype(column.dtype))


def test_however_the_table_lies_in_memory() -> None:
    table = three(3, 0, 5, 2)
    expected = flatten(table)
    assert expected.aligned.tolist() == [True] * 4
    longer = pa.concat_tables([three(7), table, three(9)])
    chunked = pa.concat_tables([table.slice(i, 1) for i in range(4)])
    for other in (longer.slice(1, 4), chunked, wide(table), wide(chunked), pa.Table.from_batches(chunked.to_batches())):
        got = flatten(other)
        for name in ("starts", "row", "position", "token_ids", "mode", "aligned"):
            np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))
        for name, column in expected.columns.items():
            np.testing.assert_array_equal(got.columns[name], column)
        assert all(kept.all() for kept in judge_tokens(got).values())
        assert metrics_match_tokens(other, got, max_kl_error(got)).all()


def test_an_empty_table() -> None:
    for table in (RECORD_SCHEMA.empty_table(), wide(RECORD_SCHEMA.empty_table()), three(3).slice(0, 0)):
        tokens = flatten(table)
        assert (len(tokens), tokens.starts.tolist()) == (0, [0])
        assert all(kept.shape == (0,) for kept in judge_tokens(tokens).values())
        assert metrics_match_tokens(table, tokens, max_kl_error(tokens)).shape == (0,)


def loose(table: pa.Table) -> pa.Schema:
    return pa.schema([field.with_nullable(True) for field in table.schema])


@pytest.mark.parametrize("change", [lambda old: old[:-1], lambda old: [*old, old[0]], lambda old: [], lambda old: None])
@pytest.mark.parametrize("column", ["alpha", "mode", "token_ids"])
def test_a_torn_row_has_no_tokens_and_tears_no_other(column: str, change: Callable[[Any], Any]) -> None:
    table = three(3, 4, 5)
    rows = table.to_pylist()
    rows[1][column] = change(rows[1][column])
    torn = pa.Table.from_pylist(rows, loose(table))
    tokens = flatten(torn)
    assert tokens.aligned.tolist() == [True, False, True]
    assert tokens.starts.tolist() == [0, 3, 3, 8]
    assert tokens.row.tolist() == [0] * 3 + [2] * 5
    good = judge_tokens(tokens)
    assert {name for name, kept in good.items() if not kept.all()} == {"lists_align"}
    assert metrics_match_tokens(torn, tokens, max_kl_error(tokens)).all()  # one defect, not two


@pytest.mark.parametrize("number", [None, -4, 2**31 - 1])
def test_a_number_of_tokens_that_is_none(number: int | None) -> None:
    rows = three(3, 4).to_pylist()
    rows[1]["num_tokens"] = number
    assert flatten(pa.Table.from_pylist(rows, loose(three(1)))).aligned.tolist() == [True, False]


@pytest.mark.parametrize("kind", [pa.int32(), pa.int64(), pa.uint32()])
def test_missing_elements_are_found(kind: pa.DataType) -> None:
    table = three(3, 4)
    schema = loose(table).set(3, pa.field("token_ids", pa.list_(kind)))
    for column, name in (("alpha", "is_finite"), ("mode", "mode_is_known"), ("logprob_theta", "is_finite")):
        rows = table.to_pylist()
        rows[1][column][2] = None
        good = judge_tokens(flatten(pa.Table.from_pylist(rows, schema)))
        assert good[name].tolist() == [True, False]
    rows = table.to_pylist()
    rows[1]["token_ids"][2] = None
    assert flatten(pa.Table.from_pylist(rows, schema)).token_ids.tolist()[5] == -1


def test_diagnostics_of_follow_their_lists_and_nothing_else() -> None:
    table = three(6, 6, 6)
    for name in [name for name in RECORD_SCHEMA.names if name.startswith(("mean_", "num_mixed", "num_f", "max_"))]:
        rows = table.to_pylist()
        rows[1][name] += 1
        changed = pa.Table.from_pylist(rows, table.schema)
        tokens = flatten(changed)
        assert metrics_match_tokens(changed, tokens, max_kl_error(tokens)).tolist() == [True, False, True], name


def test_the_largest_kl_error_is_of_mixed_tokens_alone() -> None:
    table = three(1, 4, 0)
    rows = table.to_pylist()
    rows[1]["kl_error"] = [9.0, 1e-9, 3e-9, 2e-9]  # the first token is forced
    largest = max_kl_error(flatten(pa.Table.from_pylist(rows, table.schema)))
    assert largest[1] == pytest.approx(3e-9)
    assert np.isnan(largest[[0, 2]]).all()
