"""The draw of one token a row, keyed by (seed, row, position) alone.

A counter-based generator (Philox4x32-10: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")
gives each key its own uniform number, and the inverse of q*'s cumulative sum turns it into a token. Which rows
share the batch, or how often the run was interrupted, does not enter.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10


def row_key(row_id: str, sample_idx: int) -> int:
    """A 63-bit key of one completion; two of n rows share one with a chance of n²/2⁶⁴."""
    digest = hashlib.blake2b(f"{sample_idx}:{row_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def philox(counter: tuple[Tensor, ...], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Four random words [B] int64 in [0, 2³²) of four counter words [B] and two key words.

    int64 products wrap modulo 2⁶⁴, so that the masked shift still gives their upper word.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        left, right = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((right >> 32) & MASK) ^ c1 ^ k0,
            right & MASK,
            ((left >> 32) & MASK) ^ c3 ^ k1,
            left & MASK,
        )
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1, c2, c3


def uniforms(seed: int, row_keys: Tensor, positions: Tensor) -> Tensor:  # [B] int64, [B] int64
    """One number [B] float64 in (0, 1] a row, 53 random bits each."""
    counter = (row_keys & MASK, (row_keys >> 32) & MASK, positions & MASK, torch.zeros_like(positions))
    high, low, _, _ = philox(counter, (seed & MASK, seed >> 32))
    bits = (high << 21) | (low >> 11)
    return (bits.double() + 0.5) * 2.0**-53


def draw_places(log_q: Tensor, seed: int, row_keys: Tensor, positions: Tensor) -> Tensor:
    """Columns [B] int64 of q*, drawn.

    `log_q`: [B, K] float64, normalised; `row_keys`, `positions`: [B] int64 (see `row_key`; 0 is the first token).
    """
    cumulative = log_q.exp().cumsum(dim=-1)
    total = cumulative[:, -1:]
    target = uniforms(seed, row_keys, positions)[:, None] * total
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1)


def likeliest_places(log_q: Tensor) -> Tensor:  # [B, K] float64
    """The likeliest columns [B] int64 of q*, the lowest of equals."""
    return (log_q == log_q.amax(dim=-1, keepdim=True)).to(torch.int8).argmax(dim=-1)
