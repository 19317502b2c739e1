"""One vLLM engine, driven step by step from outside.

Everything that touches vLLM's insides is here. Used of it, with the V1 model runner, in one process:
`EngineCore.scheduler` (add_request, schedule, update_from_output, finish_requests), `EngineCore.model_executor`
(execute_model, sample_tokens), and of the model runner `execute_model_state.logits`, `input_batch.req_ids`,
`discard_request_mask`, with `_sample` replaced by the tokens that lockstep has drawn. With two steps in flight also
vLLM's asynchronous scheduling: `AsyncScheduler`, the runner's `use_async_scheduling`, futures of `sample_tokens`.
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
from sampling.processes.children import first_line

TESTED_VERSIONS = ("0.26.0", "0.32.0")  # on an H200, by this design's prototype; on CPU, by the tests

ASYNC_SCHEDULER = "vllm.v1.core.sched.async_scheduler.AsyncScheduler"
_open_engines: set[VllmEngine] = set()  # of this process, which vLLM's parallel state belongs to


class VllmEngine:
    """A model loaded by vLLM that stops at its logits and takes the tokens it is given.

    A step is `forward`, then `commit`, then, when its tokens are on the host, `settle`. Where the engine is
    asynchronous, the next step's `forward` may come before that. Raises ModelError when vLLM cannot load the model,
    UnsupportedVllmError when this vLLM's insides differ from those above.
    """

    is_remote = False

    def __init__(self, model: ModelConfig, engine: EngineConfig, max_model_len: int, kv_cache_bytes: int) -> None:
        from vllm import LLM

        self._is_async = bool(engine.async_scheduling)
        options = llm_options(model, engine, max_model_len, kv_cache_bytes)
        if self._is_async and device_type() == "cpu":
            options["scheduler_cls"] = ASYNC_SCHEDULER  # vLLM turns async_scheduling off there
        if model.tensor_parallel_size > 1:  # this process is one rank of it (sampling/workers/worker.py)
            options["distributed_executor_backend"] = "external_launcher"
        try:
            self._lora = lora_request(model)
            llm = LLM(**options, async_scheduling=self._is_async)
            if self._lora is not None:
                llm.llm_engine.add_lora(self._lora)  # now: one that does not fit the model is told here
        except DualSamplingError:
            raise
        except Exception as error:  # vLLM raises whatever its parts raise
            raise ModelError(f"vLLM cannot load {model.model}: {first_line(error)}") from error
        self._llm: Any = llm
        _open_engines.add(self)
        self._attach()

    def _attach(self) -> None:
        """Find vLLM's insides. Raises UnsupportedVllmError naming the first one missing."""
        core = _inside(self._llm, "llm_engine.engine_core.engine_core")
        self._core = core
        self._scheduler = _inside(core, "scheduler")
        self._executor = _inside(core, "model_executor")
        self._runner = _inside(core, "model_executor.driver_worker.worker.model_runner")
        for path in ("_sample", "sample_tokens", "input_batch.req_ids", "discard_request_mask.np"):
            _inside(self._runner, path)
        if not hasattr(self._runner, "execute_model_state"):
            raise _unsupported("the V1 model runner's execute_model_state")
        kv_cache = _inside(self._scheduler, "kv_cache_config")
        self.block_size: int = _inside(self._scheduler, "block_size")
        self.num_groups: int = max(1, len(kv_cache.kv_cache_groups))
        self.num_blocks: int = kv_cache.num_blocks - 1  # vLLM keeps block 0 as its null block
        self.max_model_len: int = _inside(core, "vllm_config.model_config.max_model_len")
        self.max_num_batched_tokens: int = _inside(core, "vllm_config.scheduler_config.max_num_batched_tokens")
        self.device = torch.device(_inside(self._runner, "device"))
        self.dtype: torch.dtype = _inside(core, "vllm_config.model_config.dtype")  # of its logits
        self._on_cpu = self.device.type == "cpu"
        self._num_threads = torch.get_num_threads()
        self._runner._sample = self._hand_over
        if self._is_async:
            self._make_async()
        self._scheduled: Any = None
        self._tokens: Tensor | None = None
        self._committed: deque[tuple[Any, Any]] = deque()  # what was scheduled, the future of its output

    def _make_async(self) -> None:
        """On a CPU, do what vLLM does on a GPU alone: take the last step's tokens off the device.

        It brings no speed there; it is how two steps in flight are proven where there is no GPU.
        """
        if self._on_cpu:
            self._runner.use_async_scheduling = True
            _replace_async_output(_inside(self._runner, "_bookkeeping_sync").__globals__)
        if not self._runner.use_async_scheduling:
            raise _unsupported("asynchronous scheduling for this model (async_scheduling: false does without)")

    def num_blocks_for(self, num_tokens: int) -> int:
        """KV cache blocks that a row of so many tokens takes at its end."""
        return -(-num_tokens // self.block_size) * self.num_groups

    def add(self, request_id: str, prompt_ids: Sequence[int], max_tokens: int, *, adapted: bool = True) -> None:
        """Queue a request; the next `forward` prefills its whole prompt.

        `adapted`: the model's LoRA adapter, if it has one, applies.
        """
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
        """Do nothing: a model in this process runs when it is waited for."""

    def forward(self, num_rows: int) -> tuple[list[str], Tensor]:
        """Run the model on every running request.

        Returns the request ids with their logits [B, V], rows in that order. Raises LockstepError when vLLM
        did not schedule all `num_rows` whole.
        """
        if self._on_cpu:  # OpenMP counts threads per calling thread; vLLM's kernels want the same number always
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
        """Append one token [B] to each request of the last `forward`, in its order."""
        self._tokens = token_ids
        output = self._executor.sample_tokens(None, non_block=True)
        self._committed.append((self._scheduled, output))
        self._scheduled = self._tokens = None

    def update_from_output(self) -> None:
        """Tell vLLM's scheduler the tokens of the oldest step that was committed."""
        scheduled, output = self._committed.popleft()
        self._scheduler.update_from_output(scheduled, output.result())

    def finish(self, request_ids: Sequence[str]) -> None:
        """Free requests and their KV cache; ids that are unknown or finished are passed over."""
        from vllm.v1.request import RequestStatus

        self._scheduler.finish_requests(request_ids, RequestStatus.FINISHED_ABORTED)

    def close(self) -> None:
        """Give the model's memory back; other engines of this process go on."""
        if self not in _open_engines:
            return
        _open_engines.remove(self)
        client = self._llm.llm_engine.engine_core
        if _open_engines:  # vLLM's own shutdown would take the process groups from those
            if (finalizer := getattr(client, "_finalizer", None)) is not None:  # 0.32.0: the same, once it is garbage
                finalizer.detach()
            self._executor.shutdown()
            self._scheduler.shutdown()
        else:
            client.shutdown()
        self._llm = self._core = self._executor = self._scheduler = self._runner = None
        gc.collect()
        if not self._on_cpu:
            torch.cuda.empty_cache()

    def _hand_over(self, logits: Tensor, spec_decode_metadata: Any = None) -> Any:
        """Stands in for the runner's sampler."""
        from vllm.v1.outputs import SamplerOutput

        assert self._tokens is not None, "commit was not called"
        return SamplerOutput(sampled_token_ids=self._tokens.to(torch.int32).unsqueeze(-1), logprobs_tensors=None)


def _replace_async_output(module: dict[str, Any]) -> None:
    """Put an output without CUDA streams into vLLM's module of the model runner."""
    from vllm.v1.outputs import AsyncModelRunnerOutput

    class HostOutput(AsyncModelRunnerOutput):  # type: ignore[misc]
        def __init__(self, model_runner_output: Any, sampled_token_ids: Tensor, **_: Any) -> None:
            self._output = model_runner_output
            self.sampled_token_ids_cpu, self.async_copy_ready_event = sampled_token_ids, None

        def get_output(self) -> Any:
            self._output.sampled_token_ids = self.sampled_token_ids_cpu.tolist()
            return self._output

    module["AsyncGPUModelRunnerOutput"] = HostOutput


def _inside(root: Any, path: str) -> Any:
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
