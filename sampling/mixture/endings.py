"""The ending of a completion as one event of a distribution.

Two models may end by different ids: a base model by `<|endoftext|>`, a chat model by `<|im_end|>`. They mean the same,
so that what is measured and mixed is the probability that the completion ends, whichever id a model would write.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sampling.mixture.distributions import NEG_INF

EXACT = (torch.float32, torch.float64)


def merge_endings(logits: Tensor, eos_ids: Sequence[int], temperature: float) -> Tensor:  # [B, V] any float
    """Return logits [B, V] with the mass of all `eos_ids` on the first one, and none on the others.

    At `temperature` T (0 counts as 1) that logit is T·log Σ exp(l/T), so that the probabilities at T sum up. Written in
    place, except to 16-bit logits, whose rounding (0.06 at a logit of 20) would be that of the sum: they are returned
    as float32. Ids past the model's columns are ignored; the first has one.
    """
    columns = torch.tensor([token_id for token_id in eos_ids if token_id < logits.shape[-1]], device=logits.device)
    if logits.dtype not in EXACT:
        logits = logits.float()
    factor = temperature or 1.0
    total = (logits[:, columns].double() / factor).logsumexp(dim=-1) * factor
    logits[:, columns] = NEG_INF
    logits[:, eos_ids[0]] = total.to(logits.dtype)
    return logits
