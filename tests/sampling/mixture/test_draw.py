"""Tests of the counter-based draw."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2, kstest

from sampling.mixture.draw import argmax_indices, draw_indices, philox, row_key, uniforms

MAX = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((MAX,) * 4, (MAX, MAX), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_returns_the_known_answers_of_random123(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    words = philox(np.array(counter, np.uint64)[:, None], key)
    assert tuple(words[:, 0].tolist()) == expected


def test_uniforms_are_uniform_over_rows_and_over_positions() -> None:
    """Kolmogorov-Smirnov on 20,000 numbers each, false failure rate 1e-6 each."""
    many = torch.arange(20_000)
    zeros = torch.zeros_like(many)
    for numbers in (uniforms(1, many, zeros), uniforms(1, zeros, many), uniforms(2**62 + 7, many * 2**40, many)):
        assert ((numbers > 0) & (numbers <= 1)).all()
        assert kstest(numbers.numpy(), "uniform").pvalue > 1e-6


def test_a_uniform_depends_on_seed_row_and_position() -> None:
    key, position = torch.tensor([5]), torch.tensor([7])
    base = uniforms(3, key, position)
    assert uniforms(3, key, position) == base
    assert uniforms(4, key, position) != base
    assert uniforms(3, key + 1, position) != base
    assert uniforms(3, key, position + 1) != base
    assert uniforms(3 + 2**32, key, position) != base
    assert uniforms(3, key + 2**32, position) != base


def test_uniforms_do_not_change_between_versions() -> None:
    """A run resumed after an upgrade continues with the same numbers; the last is of the largest possible key."""
    keys, positions = torch.tensor([5, 2**40 + 9, 2**63 - 1]), torch.tensor([0, 7, 511])
    expected = [0.9509570978516779, 0.7763837985308892, 0.8191135698807719]
    assert uniforms(2**62 + 3, keys, positions).tolist() == expected


def test_row_keys_differ_by_id_and_by_sample() -> None:
    keys = {row_key(f"row-{i}", k) for i in range(1000) for k in range(4)} | {row_key("1:1", 0), row_key("1", 1)}
    assert len(keys) == 4002
    assert all(0 <= key < 2**63 for key in keys)


def test_draws_follow_the_distribution() -> None:
    """χ² of 50,000 draws, false failure rate 1e-6."""
    probs = torch.tensor([0.4, 0.3, 0.0, 0.2, 0.1, 0.0], dtype=torch.float64)
    num = 50_000
    drawn = draw_indices(probs.log().expand(num, -1), 0, torch.arange(num), torch.zeros(num, dtype=torch.int64))
    seen = np.bincount(drawn.numpy(), minlength=6)
    assert seen[[2, 5]].sum() == 0
    inside = probs.numpy() > 0
    expected = probs.numpy()[inside] * num
    assert ((seen[inside] - expected) ** 2 / expected).sum() < chi2.isf(1e-6, df=3)


def test_the_largest_uniform_still_draws_an_id_of_the_support(monkeypatch: pytest.MonkeyPatch) -> None:
    log_q = torch.tensor([[0.5, 0.5, 0.0, 0.0]], dtype=torch.float64).log()
    monkeypatch.setattr("sampling.mixture.draw.uniforms", lambda *_: torch.ones(1, dtype=torch.float64))
    assert draw_indices(log_q, 0, torch.tensor([0]), torch.tensor([0])).item() == 1


def test_argmax_takes_the_lowest_of_equals() -> None:
    log_q = torch.tensor([[-math.inf, -1.0, -0.5, -0.5], [-1.0, -1.0, -1.0, -1.0]], dtype=torch.float64)
    assert argmax_indices(log_q).tolist() == [2, 0]
