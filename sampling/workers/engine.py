"""The client of a model that runs in worker processes.

Mixing happens in this process, on the first GPU that it sees. Each step the workers send the last hidden states [B, H];
this process applies the LM head, whose weights it fetches once. Only where the head is not a plain product are the
logits [B, V] sent. The channel is host memory shared by the processes and pinned in each: 256 rows of 5,120 bfloat16
columns are 2.6 MB, on PCIe 5 some 0.1 ms there and back, beside steps of 20 ms and more. (CUDA IPC handles would save
half of it, between peer GPUs only, and need a second code path that only several GPUs can test.) Tokens are sent over
the pipe, 8 bytes per row.

Tested with CPU workers, never on several GPUs.
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
    """A `Model` (see there for the methods) in worker processes.

    It loads concurrently with others until `wait_until_loaded`. Every method may raise EngineDiedError, or what a
    worker raised under its own class.
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
        """Start the workers of `name`, theta or teacher, on the GPUs `devices`; the head runs on `device`.

        `kv_cache_bytes`: per worker.
        """
        self.device = device
        self._num_ranks, self._max_num_seqs = len(devices), engine.max_num_seqs
        self._memory = SharedMemory()
        self._workers = Workers(name, devices, self._memory.descriptor, on_gpus=device.type == "cuda")
        num_threads = max(1, torch.get_num_threads() // self._num_ranks)
        self._workers.send("load", model, engine, max_model_len, kv_cache_bytes, num_threads)
        self.head: Head | None = None
        self.buffer = torch.empty(0, 0)  # what a step sends: [max_num_seqs, H], or V without a head
        self._begun = False

    def wait_until_loaded(self) -> None:
        """Raise ModelError or UnsupportedVllmError when the model cannot be loaded, LockstepError when ranks differ."""
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
        """Have the workers send hidden states, from which `head` computes logits; without a head, logits."""
        self.head = head
        self._workers.send("serve", head is not None)

    @torch.inference_mode()
    def _fetch_head(self, shape: HeadShape) -> Head | None:
        """Return the model's head, or None when its logits differ from the model's own."""
        self._memory.resize(shape.num_bytes(self._num_ranks) + NUM_PROBES * shape.num_columns * shape.dtype.itemsize)
        self._workers.send("share")
        self._workers.receive(self._num_ranks)
        head = Head(shape, self._memory, self._num_ranks, self.device)
        return head if head.agrees(shape.probe_logits(self._memory, self._num_ranks)) else None

    def num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self._block_size) * self._num_groups

    def add(self, request_id: str, prompt_ids: Sequence[int], max_tokens: int, *, adapted: bool = True) -> None:
        self._workers.send("add", request_id, list(prompt_ids), max_tokens, adapted)

    def begin_forward(self, num_rows: int) -> None:
        """Start a `forward` without waiting for it, so that another model runs concurrently."""
        self._workers.send("forward", num_rows)
        self._begun = True

    def forward(self, num_rows: int) -> tuple[list[str], Tensor]:
        """Run the model, or wait for a `forward` that was begun; the logits [B, V] are on `device`."""
        if not self._begun:
            self.begin_forward(num_rows)
        self._begun = False
        ((request_ids, width, dtype),) = self._workers.receive(1)
        if self.buffer.shape[1] != width or self.buffer.dtype != dtype:  # first step
            self.buffer = step_buffer(self._memory, self._max_num_seqs, width, dtype, self.device.type == "cuda")
        values = self.buffer[: len(request_ids)].to(self.device, non_blocking=True)
        return request_ids, values if self.head is None else self.head.logits(values)

    def set_sampled_tokens(self, token_ids: Tensor) -> None:
        """Append one token [B] int64 to each request of the last `forward`; waits until they are drawn."""
        self._workers.send("set_sampled_tokens", token_ids.to("cpu", torch.int64).numpy().tobytes())

    def update_from_output(self) -> None:
        self._workers.send("update_from_output")

    def finish(self, request_ids: Sequence[str]) -> None:
        """Free requests and their KV cache; those of a dead worker are gone with it."""
        if self._workers.are_alive:
            self._workers.send("finish", list(request_ids))

    def close(self) -> None:
        """End the workers, which frees their memory; a second call does nothing."""
        self._workers.close()
        self._memory.close()
