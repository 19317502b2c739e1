"""Tests of the LM head in another process: vLLM's own layers against the formula."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sampling.workers.head import NUM_PROBES, Head, HeadShape, head_shape, probes, share_head
from sampling.workers.shared_memory import SharedMemory

NUM_RANKS, ROWS, HIDDEN, COLUMNS = 2, 64, 32, 100
CPU = torch.device("cpu")


def shape_of(**values: Any) -> HeadShape:
    info: dict[str, Any] = {"has_bias": True, "soft_cap": 3.0, "scale": 0.5, **values}
    return HeadShape(num_rows=ROWS, hidden_size=HIDDEN, dtype=torch.float32, num_columns=COLUMNS, **info)


def gathered(shape: HeadShape) -> tuple[Head, Tensor, Tensor]:
    """Return a head that two ranks have shared, its whole weight [V_padded, H], its bias [V_padded]."""
    torch.manual_seed(1)
    weight, bias = torch.randn(NUM_RANKS * ROWS, HIDDEN), torch.randn(NUM_RANKS * ROWS)
    memory = SharedMemory()
    memory.resize(shape.num_bytes(NUM_RANKS))
    for rank in (1, 0):
        own = slice(rank * ROWS, (rank + 1) * ROWS)
        model = SimpleNamespace(lm_head=SimpleNamespace(weight=weight[own], bias=bias[own]))
        share_head(model, shape, SharedMemory(memory.descriptor), rank, NUM_RANKS)
    head = Head(shape, memory, NUM_RANKS, CPU)
    memory.close()
    return head, weight, bias


def test_logits_equal_the_formula() -> None:
    head, weight, bias = gathered(shape_of())
    states = torch.randn(5, HIDDEN)
    product = (states.double() @ weight.double().T + bias.double())[:, :COLUMNS]
    expected = 0.5 * 3.0 * torch.tanh(product / 3.0)
    torch.testing.assert_close(head.logits(states).double(), expected, rtol=0, atol=1e-5)


def test_a_head_without_bias_soft_cap_or_scale() -> None:
    head, weight, _ = gathered(shape_of(has_bias=False, soft_cap=None, scale=1.0))
    states = torch.randn(5, HIDDEN)
    expected = states.double() @ weight[:COLUMNS].double().T
    torch.testing.assert_close(head.logits(states).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("differs", ["nothing", "bias", "soft_cap", "scale"])
def test_agrees_detects_another_formula(differs: str) -> None:
    head, weight, bias = gathered(shape_of())
    states = probes(HIDDEN, torch.float32).double()
    assert states.shape == (NUM_PROBES, HIDDEN)
    theirs = states @ weight.double().T + (0 if differs == "bias" else bias.double())
    theirs = theirs if differs == "soft_cap" else 3 * torch.tanh(theirs / 3)
    theirs = theirs[:, :COLUMNS] * (0.51 if differs == "scale" else 0.5)
    assert head.agrees(theirs.float()) == (differs == "nothing")


def test_an_unknown_head_is_none() -> None:
    assert head_shape(SimpleNamespace()) is None
    assert head_shape(SimpleNamespace(lm_head=torch.nn.Linear(2, 3), logits_processor=None)) is None
