"""A model's LM head, applied in another process than the model.

A row's last hidden state is 30 to 150 times narrower than its logits, so hidden states are what one process, or GPU,
sends to another. The head then computes the logits with vLLM's own operation on the same weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sampling.workers.shared_memory import SharedMemory

NUM_PROBES = 12
# Tolerance relative to the largest logit: another order of float32 sums, then rounding to the logits' dtype.
SUM_ERROR, NUM_ULPS = 64 * torch.finfo(torch.float32).eps, 2


@dataclass(frozen=True, slots=True)
class HeadShape:
    """One rank's part of a head: its rows of the weight, and what is applied after the product."""

    num_rows: int  # V_padded / tensor_parallel_size
    hidden_size: int
    dtype: torch.dtype
    has_bias: bool
    num_columns: int  # V: rows past it are padding
    soft_cap: float | None
    scale: float

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of the weight."""
        return self.hidden_size * self.dtype.itemsize

    def num_bytes(self, num_ranks: int) -> int:
        """Return the bytes of the whole head."""
        return num_ranks * self.num_rows * (self.row_bytes + self.has_bias * self.dtype.itemsize)

    def probe_logits(self, memory: SharedMemory, num_ranks: int) -> Tensor:
        """Return the model's logits [NUM_PROBES, V] of `probes`, stored after the head."""
        return memory.tensor((NUM_PROBES, self.num_columns), self.dtype, self.num_bytes(num_ranks))

    def weight(self, memory: SharedMemory, num_ranks: int) -> Tensor:
        """Return the whole weight [V_padded, H] in shared memory."""
        return memory.tensor((num_ranks * self.num_rows, self.hidden_size), self.dtype)

    def bias(self, memory: SharedMemory, num_ranks: int) -> Tensor | None:
        """Return the whole bias [V_padded], stored after the weight."""
        rows = num_ranks * self.num_rows
        return memory.tensor((rows,), self.dtype, rows * self.row_bytes) if self.has_bias else None


def head_shape(model: Any) -> HeadShape | None:
    """Return the shape of a vLLM model's head, or None when it is no plain product: quantised, with LoRA, unknown."""
    from vllm.model_executor.layers.logits_processor import LogitsProcessor
    from vllm.model_executor.layers.vocab_parallel_embedding import (
        ParallelLMHead,
        UnquantizedEmbeddingMethod,
        VocabParallelEmbedding,
    )

    head = _head_of(model)
    processor: Any = getattr(model, "logits_processor", None)
    if type(head) not in (ParallelLMHead, VocabParallelEmbedding) or type(processor) is not LogitsProcessor:
        return None
    weight, bias = head.weight, getattr(head, "bias", None)
    if type(head.quant_method) is not UnquantizedEmbeddingMethod or weight.ndim != 2 or processor.logits_as_input:
        return None
    if getattr(processor, "head_dtype", None) not in (None, weight.dtype):
        return None
    return HeadShape(
        num_rows=weight.shape[0],
        hidden_size=weight.shape[1],
        dtype=weight.dtype,
        has_bias=bias is not None,
        num_columns=processor.org_vocab_size,
        soft_cap=processor.soft_cap,
        scale=processor.scale,
    )


def share_head(model: Any, shape: HeadShape, memory: SharedMemory, rank: int, num_ranks: int) -> None:
    """Write one rank's part of the head to shared memory."""
    rows = slice(rank * shape.num_rows, (rank + 1) * shape.num_rows)
    head = _head_of(model)
    shape.weight(memory, num_ranks)[rows] = head.weight.cpu()
    bias = shape.bias(memory, num_ranks)
    if bias is not None:
        bias[rows] = head.bias.cpu()


class Head:
    """The whole head, in the mixing process."""

    def __init__(self, shape: HeadShape, memory: SharedMemory, num_ranks: int, device: torch.device) -> None:
        from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

        self._shape = shape
        self._layer: Any = torch.nn.Module()
        weight, bias = shape.weight(memory, num_ranks), shape.bias(memory, num_ranks)
        self._layer.weight = torch.nn.Parameter(weight.to(device, copy=True), requires_grad=False)
        self._bias = None if bias is None else bias.to(device, copy=True)
        self._method: Any = UnquantizedEmbeddingMethod()
        self._method.process_weights_after_loading(self._layer)

    def logits(self, hidden_states: Tensor) -> Tensor:  # [B, H] the model's dtype
        """Return logits [B, V], as vLLM's LogitsProcessor computes them."""
        logits: Tensor = self._method.apply(self._layer, hidden_states, bias=self._bias)
        logits = logits[..., : self._shape.num_columns]
        if self._shape.soft_cap is not None:
            logits = torch.tanh(logits / self._shape.soft_cap) * self._shape.soft_cap
        if self._shape.scale != 1.0:
            logits = logits * self._shape.scale
        return logits

    def agrees(self, logits: Tensor) -> bool:  # [NUM_PROBES, V] on a CPU: the model's own, of `probes`
        """Return whether this head computes the model's logits."""
        shape = self._shape
        ours = self.logits(probes(shape.hidden_size, shape.dtype).to(self._layer.weight.device)).cpu()
        theirs = logits.double()
        limit = (SUM_ERROR + NUM_ULPS * torch.finfo(logits.dtype).eps) * theirs.abs().amax(-1, keepdim=True)
        return bool(((ours.double() - theirs).abs() <= limit).all())


def _head_of(model: Any) -> Any:
    """Return the LM head, or the tied embedding; `Head.agrees` checks that the logits are computed from it."""
    return getattr(model, "lm_head", None) or getattr(getattr(model, "model", None), "embed_tokens", None)


def probes(hidden_size: int, dtype: torch.dtype) -> Tensor:
    """Return hidden states [NUM_PROBES, H], equal in every process, of three scales: a soft cap shows in large ones."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(NUM_PROBES, hidden_size, generator=generator)
    return (noise * torch.tensor([0.1, 1.0, 10.0]).repeat(NUM_PROBES // 3)[:, None]).to(dtype)
