"""The draw of one token a row from q*, a function of (seed, row, position) alone.

A counter-based generator (Philox4x32-10: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") maps each
key to a uniform number, and the inverse of q*'s cumulative sum maps that to a token. Which rows share the batch, or how
often the run was interrupted, does not matter.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
_MASK, _HALF = np.uint64(MASK), np.uint64(32)
_MULTIPLIERS, _WEYL = np.array(MULTIPLIERS, np.uint64)[:, None], np.array(WEYL, np.uint64)


def row_key(row_id: str, sample_idx: int) -> int:
    """Return a 63-bit key of one completion; some two of n rows share one with probability n²/2⁶⁴."""
    digest = hashlib.blake2b(f"{sample_idx}:{row_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def philox(counter: NDArray[np.uint64], key: tuple[int, int]) -> NDArray[np.uint64]:
    """Return four random words [4, B] in [0, 2³²) of four counter words [4, B] and two key words.

    In numpy: a step asks for some hundred numbers, for which its calls take half the time of torch's.
    """
    keys = (np.array(key, np.uint64) + np.arange(ROUNDS, dtype=np.uint64)[:, None] * _WEYL) & _MASK
    even, odd = counter[0::2], counter[1::2]
    for round_key in keys[:, :, None]:
        products = even * _MULTIPLIERS
        even, odd = (products >> _HALF)[::-1] ^ odd ^ round_key, (products & _MASK)[::-1]
    return np.stack([even[0], odd[0], even[1], odd[1]])


def uniforms(seed: int, row_keys: Tensor, positions: Tensor) -> Tensor:  # [B] int64, [B] int64
    """Return one number [B] float64 in (0, 1] a row, 53 random bits each."""
    keys, offsets = (words.cpu().numpy().astype(np.uint64) for words in (row_keys, positions))
    counter = np.stack([keys & _MASK, keys >> _HALF, offsets & _MASK, np.zeros_like(offsets)])
    high, low, _, _ = philox(counter, (seed & MASK, seed >> 32))
    bits = (high << np.uint64(21)) | (low >> np.uint64(11))
    return torch.from_numpy((bits.astype(np.float64) + 0.5) * 2.0**-53).to(row_keys.device)


def draw_indices(log_q: Tensor, seed: int, row_keys: Tensor, positions: Tensor) -> Tensor:
    """Return a column [B] int64 of q* a row, drawn by inverse CDF.

    `log_q`: [B, K] float64, normalised; `row_keys` (see `row_key`), `positions` (0 is the first token): [B] int64.
    """
    cumulative = log_q.exp().cumsum(dim=-1)
    total = cumulative[:, -1:]
    target = uniforms(seed, row_keys, positions)[:, None] * total
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1)


def argmax_indices(log_q: Tensor) -> Tensor:  # [B, K] float64
    """Return the likeliest column [B] int64 of q* a row, the lowest of equals."""
    return (log_q == log_q.amax(dim=-1, keepdim=True)).to(torch.int8).argmax(dim=-1)
