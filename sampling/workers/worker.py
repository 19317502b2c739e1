"""A worker process: one rank of a model, driven by commands over a pipe.

Every rank of a model on several GPUs runs vLLM's scheduler itself (executor "external_launcher"): it is deterministic
and every rank gets the same commands, so all schedule the same rows. Rank 0 answers. When the pipe closes, the mixing
process has ended, and the worker ends at once (sampling/processes/child.py).

Uses of vLLM's internals, beside those in sampling/engine/vllm_engine.py: the runner's `model.compute_logits`, replaced
by the identity so that hidden states are returned; the model's `lm_head` with its `logits_processor`;
`ExecutorWithExternalLauncher._distributed_args`.
"""

from __future__ import annotations

import sampling.environment  # noqa: F401  isort: skip  (vLLM reads its environment at import)

import os
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from sampling.config import EngineConfig, ModelConfig
from sampling.engine.vllm_engine import VllmEngine
from sampling.models.vllm_options import set_num_threads
from sampling.workers.head import HeadShape, head_shape, probes, share_head
from sampling.workers.shared_memory import SharedMemory, step_buffer
from sampling.workers.worker_info import WorkerInfo


def serve(connection: Connection) -> None:
    """Execute the commands that arrive over a pipe, after the descriptor of the shared memory."""
    memory = connection.recv()
    os.set_inheritable(memory, False)
    worker = Worker(connection, SharedMemory(memory), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    while True:
        name, *arguments = connection.recv()
        with torch.inference_mode():
            getattr(worker, name)(*arguments)


class Worker:
    """A rank of a model; its public methods are the commands (see `Model` for those of the same name)."""

    def __init__(self, connection: Connection, memory: SharedMemory, rank: int, num_ranks: int) -> None:
        self._connection, self._memory = connection, memory
        self._rank, self._num_ranks = rank, num_ranks
        self._engine: Any = None
        self._head: HeadShape | None = None
        self._logits = torch.empty(0)  # of the probes, until `share`
        self._buffer = torch.empty(0, 0)
        self._max_num_seqs = 0

    def load(
        self, model: ModelConfig, engine: EngineConfig, max_model_len: int, kv_cache_bytes: int, num_threads: int
    ) -> None:
        """Load the model; answer with its WorkerInfo."""
        set_num_threads(num_threads)
        self._max_num_seqs = engine.max_num_seqs
        if self._num_ranks > 1:
            _set_rendezvous(self._rank)
        self._engine = VllmEngine(model, engine, max_model_len, kv_cache_bytes)
        head = head_shape(self._model)
        if head is not None:
            states = probes(head.hidden_size, head.dtype).to(self._engine.device)
            self._logits = self._model.compute_logits(states)  # on every rank: a collective gathers the parts
            if self._logits.shape[1] != head.num_columns or self._logits.dtype != head.dtype:
                head = None
        self._head = head
        self._answer(
            WorkerInfo(
                max_model_len=self._engine.max_model_len,
                max_num_batched_tokens=self._engine.max_num_batched_tokens,
                num_blocks=self._engine.num_blocks,
                block_size=self._engine.block_size,
                num_groups=self._engine.num_groups,
                dtype=self._engine.dtype,
                head=head,
            )
        )

    def share(self) -> None:
        """Write this rank's part of the head, then rank 0's logits of the probes, to shared memory."""
        assert self._head is not None
        share_head(self._model, self._head, self._memory, self._rank, self._num_ranks)
        if self._rank == 0:
            self._head.probe_logits(self._memory, self._num_ranks).copy_(self._logits)
        self._answer(None)

    def serve(self, sends_hidden_states: bool) -> None:
        """Set what `forward` sends: hidden states, or logits."""
        self._logits = torch.empty(0)
        model = self._engine._runner.model
        vars(model).pop("compute_logits", None)
        if sends_hidden_states:
            model.compute_logits = _identity

    def add(self, request_id: str, prompt_ids: list[int], max_tokens: int, adapted: bool) -> None:
        self._engine.add(request_id, prompt_ids, max_tokens, adapted=adapted)

    def forward(self, num_rows: int) -> None:
        """Run the model; rank 0 writes hidden states [B, H] or logits [B, V] to shared memory, answers with the ids."""
        request_ids, values = self._engine.forward(num_rows)
        if self._rank > 0:
            return
        width, dtype = values.shape[1], values.dtype
        if self._buffer.shape[1] != width or self._buffer.dtype != dtype:  # first step
            self._memory.resize(self._max_num_seqs * width * dtype.itemsize)
            self._buffer = step_buffer(self._memory, self._max_num_seqs, width, dtype, values.is_cuda)
        self._buffer[: len(request_ids)].copy_(values, non_blocking=True)
        if values.is_cuda:
            torch.cuda.current_stream().synchronize()
        self._answer((request_ids, width, dtype))

    def set_sampled_tokens(self, token_ids: bytes) -> None:  # [B] int64
        self._engine.set_sampled_tokens(
            torch.frombuffer(bytearray(token_ids), dtype=torch.int64).to(self._engine.device)
        )

    def update_from_output(self) -> None:
        self._engine.update_from_output()

    def finish(self, request_ids: list[str]) -> None:
        self._engine.finish(request_ids)

    def close(self) -> None:
        """End this process."""
        self._engine.close()
        os._exit(0)

    @property
    def _model(self) -> Any:
        return self._engine._runner.get_model()

    def _answer(self, payload: Any) -> None:
        self._connection.send(("done", payload))


def _identity(hidden_states: Tensor) -> Tensor:
    """Replacement of `compute_logits`, so that the runner returns hidden states in place of logits."""
    return hidden_states


def _set_rendezvous(rank: int) -> None:
    """Set the address at which vLLM's ranks meet.

    vLLM's default "env://" is the same for every model; on a CPU, where it names the ranks' shared memory, two models
    would share one.
    """
    from vllm.v1.executor.uniproc_executor import ExecutorWithExternalLauncher

    address = f"tcp://{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    ExecutorWithExternalLauncher._distributed_args = lambda _: (address, rank, rank)
