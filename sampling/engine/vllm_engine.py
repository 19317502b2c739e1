"""A vLLM engine whose steps are driven from outside.

All use of vLLM's internals is here. With the V1 model runner, in one process: `EngineCore.scheduler` (add_request,
schedule, update_from_output, finish_requests), `EngineCore.model_executor` (execute_model, sample_tokens), and of the
model runner `execute_model_state.logits`, `input_batch.req_ids`, `discard_request_mask`, with `_sample` replaced by the
tokens that lockstep has drawn. With two steps in flight also vLLM's asynchronous scheduling: `AsyncScheduler`, the
runner's `use_async_scheduling`, futures of `sample_tokens`.
"""

from __future__ import annotations

import sampling.environment  # noqa: F401  isort: skip  (vLLM reads its environment at import)

import gc
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sampling.config import EngineConfig, ModelConfig
from sampling.errors import DualSamplingError, LockstepError, ModelError, UnsupportedVllmError
from sampling.models.vllm_options import device_type, llm_options, lora_request, set_num_threads
from sampling.processes.errors import first_line

TESTED_VERSIONS = ("0.26.0", "0.32.0")  # on an H200, by this design's prototype; on CPU, by the tests

ASYNC_SCHEDULER = "vllm.v1.core.sched.async_scheduler.AsyncScheduler"
_open_engines: set[VllmEngine] = set()  # of this process; they share vLLM's parallel state


class VllmEngine:
    """A `Model` (see there for the methods) loaded by vLLM into this process.

    Raises ModelError when vLLM cannot load the model, UnsupportedVllmError when this vLLM's internals differ from
    those above.
    """

    is_remote = False

    def __init__(self, model: ModelConfig, engine: EngineConfig, max_model_len: int, kv_cache_bytes: int) -> None:
        from vllm import LLM

        self._is_async = bool(engine.async_scheduling)
        options = llm_options(model, engine, max_model_len, kv_cache_bytes)
        if self._is_async and device_type() == "cpu":
            options["scheduler_cls"] = ASYNC_SCHEDULER  # vLLM disables async_scheduling there
        if model.tensor_parallel_size > 1:  # this process is one rank (sampling/workers/worker.py)
            options["distributed_executor_backend"] = "external_launcher"
        try:
            self._lora = lora_request(model)
            llm = LLM(**options, async_scheduling=self._is_async)
            if self._lora is not None:
                llm.llm_engine.add_lora(self._lora)  # now, so that an adapter that does not fit fails here
        except DualSamplingError:
            raise
        except Exception as error:  # vLLM raises whatever its dependencies raise
            raise ModelError(f"vLLM cannot load {model.model}: {first_line(error)}") from error
        self._llm: Any = llm
        _open_engines.add(self)
        self._attach()

    def _attach(self) -> None:
        """Look up vLLM's internals. Raises UnsupportedVllmError naming the first one missing."""
        core = _internal(self._llm, "llm_engine.engine_core.engine_core")
        self._core = core
        self._scheduler = _internal(core, "scheduler")
        self._executor = _internal(core, "model_executor")
        self._runner = _internal(core, "model_executor.driver_worker.worker.model_runner")
        for path in ("_sample", "sample_tokens", "input_batch.req_ids", "discard_request_mask.np"):
            _internal(self._runner, path)
        if not hasattr(self._runner, "execute_model_state"):
            raise _unsupported("the V1 model runner's execute_model_state")
        kv_cache = _internal(self._scheduler, "kv_cache_config")
        self.block_size: int = _internal(self._scheduler, "block_size")
        self.num_groups: int = max(1, len(kv_cache.kv_cache_groups))
        self.num_blocks: int = kv_cache.num_blocks - 1  # vLLM keeps block 0 as its null block
        self.max_model_len: int = _internal(core, "vllm_config.model_config.max_model_len")
        self.max_num_batched_tokens: int = _internal(core, "vllm_config.scheduler_config.max_num_batched_tokens")
        self.device = torch.device(_internal(self._runner, "device"))
        self.dtype: torch.dtype = _internal(core, "vllm_config.model_config.dtype")  # of its logits
        self._on_cpu = self.device.type == "cpu"
        self._num_threads = torch.get_num_threads()
        self._runner._sample = self._sampler_output
        if self._is_async:
            self._make_async()
        self._scheduled: Any = None
        self._tokens: Tensor | None = None
        self._pending: deque[tuple[Any, Any]] = deque()  # each step's scheduler output, the future of its tokens

    def _make_async(self) -> None:
        """Check asynchronous scheduling; on a CPU enable it, though vLLM has it on GPUs only.

        It brings no speed there; it is for testing two steps in flight without a GPU.
        """
        if self._on_cpu:
            self._runner.use_async_scheduling = True
            _replace_async_output(_internal(self._runner, "_bookkeeping_sync").__globals__)
        if not self._runner.use_async_scheduling:
            raise _unsupported("asynchronous scheduling for this model (async_scheduling: false does without)")

    def num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size) * self.num_groups

    def add(self, request_id: str, prompt_ids: Sequence[int], max_tokens: int, *, adapted: bool = True) -> None:
        from vllm import SamplingParams
        from vllm.v1.request import Request

        params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True, detokenize=False)
        request = Request(
            request_id=request_id,
            prompt_token_ids=list(prompt_ids),
            sampling_params=params,
            pooling_params=None,
            block_hasher=self._core.request_block_hasher,
            lora_request=self._lora if adapted else None,
        )
        self._scheduler.add_request(request)

    def begin_forward(self, num_rows: int) -> None:
        """Do nothing: a model in this process runs in `forward`."""

    def forward(self, num_rows: int) -> tuple[list[str], Tensor]:
        if self._on_cpu:  # OpenMP counts threads per calling thread; vLLM's kernels need the same number always
            set_num_threads(self._num_threads)
        self._scheduled = self._scheduler.schedule()
        if len(self._scheduled.num_scheduled_tokens) != num_rows:
            raise LockstepError(
                f"vLLM scheduled {len(self._scheduled.num_scheduled_tokens)} of {num_rows} rows; please report this"
            )
        self._executor.execute_model(self._scheduled)
        request_ids = list(self._runner.input_batch.req_ids)
        if self._runner.discard_request_mask.np[: len(request_ids)].any():
            raise LockstepError("vLLM split a prompt over two steps; please report this")
        return request_ids, self._runner.execute_model_state.logits

    def set_sampled_tokens(self, token_ids: Tensor) -> None:
        self._tokens = token_ids
        output = self._executor.sample_tokens(None, non_block=True)
        self._pending.append((self._scheduled, output))
        self._scheduled = self._tokens = None

    def update_from_output(self) -> None:
        scheduled, output = self._pending.popleft()
        self._scheduler.update_from_output(scheduled, output.result())

    def finish(self, request_ids: Sequence[str]) -> None:
        from vllm.v1.request import RequestStatus

        self._scheduler.finish_requests(request_ids, RequestStatus.FINISHED_ABORTED)

    def close(self) -> None:
        """Free the model's memory; other engines of this process keep working."""
        if self not in _open_engines:
            return
        _open_engines.remove(self)
        client = self._llm.llm_engine.engine_core
        if _open_engines:  # vLLM's own shutdown would destroy their process groups
            # 0.32.0 runs that shutdown at garbage collection
            if (finalizer := getattr(client, "_finalizer", None)) is not None:
                finalizer.detach()
            self._executor.shutdown()
            self._scheduler.shutdown()
        else:
            client.shutdown()
        self._llm = self._core = self._executor = self._scheduler = self._runner = None
        gc.collect()
        if not self._on_cpu:
            torch.cuda.empty_cache()

    def _sampler_output(self, logits: Tensor, spec_decode_metadata: Any = None) -> Any:
        """Replacement of the runner's sampler: return the given tokens."""
        from vllm.v1.outputs import SamplerOutput

        assert self._tokens is not None, "set_sampled_tokens was not called"
        return SamplerOutput(sampled_token_ids=self._tokens.to(torch.int32).unsqueeze(-1), logprobs_tensors=None)


def _replace_async_output(module: dict[str, Any]) -> None:
    """Replace the runner module's asynchronous output class by one without CUDA streams."""
    from vllm.v1.outputs import AsyncModelRunnerOutput

    class HostOutput(AsyncModelRunnerOutput):  # type: ignore[misc]
        def __init__(self, model_runner_output: Any, sampled_token_ids: Tensor, **_: Any) -> None:
            self._output = model_runner_output
            self.sampled_token_ids_cpu, self.async_copy_ready_event = sampled_token_ids, None

        def get_output(self) -> Any:
            self._output.sampled_token_ids = self.sampled_token_ids_cpu.tolist()
            return self._output

    module["AsyncGPUModelRunnerOutput"] = HostOutput


def _internal(root: Any, path: str) -> Any:
    for name in path.split("."):
        if not hasattr(root, name):
            raise _unsupported(f"{type(root).__name__}.{name}")
        root = getattr(root, name)
    return root


def _unsupported(what: str) -> UnsupportedVllmError:
    import vllm

    return UnsupportedVllmError(
        f"vLLM {vllm.__version__} has no {what}, which lockstep needs; it was tested with vLLM"
        f" {' and '.join(TESTED_VERSIONS)} (VLLM_USE_V2_MODEL_RUNNER=0, VLLM_ENABLE_V1_MULTIPROCESSING=0)"
    )
