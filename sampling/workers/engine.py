"""A model in worker processes of its own, for lockstep the same as one loaded here.

Mixing happens in the process that drives lockstep, on the first GPU that it sees. What crosses to it, each step,
are the last hidden states [B, H] that the LM head is applied to, which happens here with the head's weights, fetched
once; only where that head is no plain product the logits [B, V] cross. The way is host memory that both processes
share, pinned in both: 256 rows of 5,120 bfloat16 columns are 2.6 MB, on PCIe 5 some 0.1 ms there and back, beside
steps of 20 ms and more. (CUDA's own handles would save half of it, between peers alone, at the price of a second way
that only several GPUs can test.) Tokens go back over the pipe, 8 bytes a row.

Run on CPU workers by the tests, and never on several GPUs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sampling.config import EngineConfig, ModelConfig
from sampling.errors import LockstepError
from sampling.workers.head import NUM_PROBES, Head, HeadShape
from sampling.workers.shared_memory import SharedMemory, step_buffer
from sampling.workers.worker_info import WorkerInfo
from sampling.workers.workers import Workers


class RemoteEngine:
    """A model that stops at its hidden states and takes the tokens it is given; see VllmEngine for a step.

    It loads beside others until `wait_until_loaded`. Every method may raise EngineDiedError, or what a worker raised
    under its own class.
    """

    is_remote = True

    def __init__(
        self,
        name: str,
        model: ModelConfig,
        engine: EngineConfig,
        max_model_len: int,
        kv_cache_bytes: int,
        *,
        devices: Sequence[int],
        device: torch.device,
    ) -> None:
        """Start the workers of `name`, theta or teacher, on the GPUs `devices`; its logits are made on `device`.

        `kv_cache_bytes`: of each worker.
        """
        self.device = device
        self._num_ranks, self._max_num_seqs = len(devices), engine.max_num_seqs
        self._memory = SharedMemory()
        self._workers = Workers(name, devices, self._memory.descriptor, on_gpus=device.type == "cuda")
        num_threads = max(1, torch.get_num_threads() // self._num_ranks)
        self._send("load", model, engine, max_model_len, kv_cache_bytes, num_threads)
        self.head: Head | None = None
        self.buffer = torch.empty(0, 0)  # what crosses in a step: [max_num_seqs, H], or V without a head
        self._begun = False

    def wait_until_loaded(self) -> None:
        """Raises ModelError, UnsupportedVllmError when the model cannot be loaded, LockstepError if ranks differ."""
        try:
            self._take(self._workers.receive(self._num_ranks))
        except BaseException:
            self.close()
            raise

    def _take(self, info: Sequence[WorkerInfo]) -> None:
        first = info[0]
        if any(other != first for other in info):
            raise LockstepError(f"the ranks of one model differ: {', '.join(map(str, info))}; please report this")
        self.max_model_len, self.max_num_batched_tokens = first.max_model_len, first.max_num_batched_tokens
        self.dtype = first.dtype
        self.num_blocks, self._block_size, self._num_groups = first.num_blocks, first.block_size, first.num_groups
        self._serve(None if first.head is None else self._fetch_head(first.head))

    def _serve(self, head: Head | None) -> None:
        """Have hidden states sent, which logits are made of here; logits without a head."""
        self.head = head
        self._send("serve", head is not None)

    @torch.inference_mode()
    def _fetch_head(self, shape: HeadShape) -> Head | None:
        """The model's head, None when what it makes here is not what the model makes."""
        self._memory.resize(shape.num_bytes(self._num_ranks) + NUM_PROBES * shape.num_columns * shape.dtype.itemsize)
        self._send("share")
        self._workers.receive(self._num_ranks)
        head = Head(shape, self._memory, self._num_ranks, self.device)
        return head if head.agrees(shape.probe_logits(self._memory, self._num_ranks)) else None

    def num_blocks_for(self, num_tokens: int) -> int:
        """KV cache blocks that a row of so many tokens takes at its end."""
        return -(-num_tokens // self._block_size) * self._num_groups

    def add(self, request_id: str, prompt_ids: Sequence[int], max_tokens: int, *, adapted: bool = True) -> None:
        """Queue a request; the next `forward` prefills its whole prompt.

        `adapted`: the model's LoRA adapter, if it has one, applies.
        """
        self._send("add", request_id, list(prompt_ids), max_tokens, adapted)

    def begin_forward(self, num_rows: int) -> None:
        """Start a `forward` without waiting for it, so that another model may run at the same time."""
        self._send("forward", num_rows)
        self._begun = True

    def forward(self, num_rows: int) -> tuple[list[str], Tensor]:
        """Run the model on every running request, or wait for that which was begun.

        Returns the request ids with their logits [B, V] on `device`, rows in that order; valid until `commit`. Raises
        LockstepError when vLLM did not schedule all `num_rows` whole.
        """
        if not self._begun:
            self.begin_forward(num_rows)
        self._begun = False
        ((request_ids, width, dtype),) = self._workers.receive(1)
        if self.buffer.shape[1] != width or self.buffer.dtype != dtype:  # the first ones
            self.buffer = step_buffer(self._memory, self._max_num_seqs, width, dtype, self.device.type == "cuda")
        values = self.buffer[: len(request_ids)].to(self.device, non_blocking=True)
        return request_ids, values if self.head is None else self.head.logits(values)

    def set_sampled_tokens(self, token_ids: Tensor) -> None:
        """Append one token [B] to each request of the last `forward`, in its order; waits until they are drawn."""
        self._send("set_sampled_tokens", token_ids.to("cpu", torch.int64).numpy().tobytes())

    def update_from_output(self) -> None:
        """Tell vLLM's scheduler the tokens of the oldest step that was committed."""
        self._send("update_from_output")

    def finish(self, request_ids: Sequence[str]) -> None:
        """Free requests with their KV cache; those of a worker that has died are gone with it."""
        if self._workers.are_alive:
            self._send("finish", list(request_ids))

    def close(self) -> None:
        """End the workers, which gives their memory back; a second call does nothing."""
        self._workers.close()
        self._memory.close()

    @property
    def pids(self) -> list[int]:
        """The workers' process ids, by rank."""
        return self._workers.pids

    def _send(self, name: str, *arguments: object) -> None:
        self._workers.send(name, *arguments)
