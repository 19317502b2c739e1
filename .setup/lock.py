"""The lock files: every package of the `cpu` or the `gpu` extra at one version.

`make lock` runs it in `.venv`; arguments go on to `uv pip compile` (`--upgrade` asks for the newest versions,
without it only what `pyproject.toml` forces changes).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

from indexes import uv_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PYTHON = Path(sys.executable)
HEADER = "# Made by `make lock` for Linux, CPython 3.11 to 3.13. Complete: install it without resolving anything.\n"
# The first release of each Python and one later than all: a marker that turns at a patch release shows.
PYTHONS = tuple(f"3.{minor}.{patch}" for minor, patch in product((11, 12, 13), (0, 99)))
MACHINES = ("x86_64", "aarch64")


def compile_lock(extra: str, *arguments: str, output: Path) -> bool:
    """Resolve one extra into `output`, with the versions already there preferred; return whether it went."""
    command: list[str | Path] = [PYTHON.parent / "uv", "pip", "compile", "pyproject.toml", "--extra", extra]
    command += ["--extra", "dev", "--universal", "--python-version", "3.11", "--no-annotate", "--no-header", "--quiet"]
    command += ["--no-emit-index-url", "--no-emit-find-links", "--output-file", output, *arguments]
    return subprocess.run(command, cwd=ROOT, env=uv_environment(PYTHON)).returncode == 0


def supported(line: str) -> str | None:
    """Return a lock line as this project needs it: without a marker that always holds, None if it never does.

    Filtered here and not by uv's `environments`: with that setting uv wants a file of torch for every Python,
    and a machine may carry the `+cpu` build for its own Python alone.
    """
    requirement = Requirement(line)
    if requirement.marker is None:
        return line
    environments = [
        {
            "python_full_version": python,
            "python_version": python.rpartition(".")[0],
            "platform_machine": machine,
            "sys_platform": "linux",
            "platform_system": "Linux",
            "os_name": "posix",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
        }
        for python, machine in product(PYTHONS, MACHINES)
    ]
    holds = {requirement.marker.evaluate(environment) for environment in environments}
    if holds == {False}:
        return None
    return line.partition(";")[0].strip() if holds == {True} else line


def write_lock(extra: str, arguments: list[str]) -> None:
    """Write `requirements-<extra>.lock` anew."""
    lock = ROOT / f"requirements-{extra}.lock"
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / lock.name
        if lock.exists():
            output.write_text(lock.read_text())
        done = compile_lock(extra, *arguments, output=output)
        if not done and extra == "cpu":
            print("the indexes of pip's settings do not do: PyTorch's CPU index is asked as well", flush=True)
            done = compile_lock(extra, *arguments, "--torch-backend", "cpu", output=output)
        if not done:
            sys.exit(f"{lock.name} is left as it was: uv found no solution, see above")
        lines = [supported(line) for line in output.read_text().splitlines() if not line.startswith("#")]
    lock.write_text(HEADER + "".join(f"{line}\n" for line in lines if line is not None))
    print(f"{lock.name}: {sum(line is not None for line in lines)} packages")


if __name__ == "__main__":
    for extra in ("cpu", "gpu"):
        write_lock(extra, sys.argv[1:])
