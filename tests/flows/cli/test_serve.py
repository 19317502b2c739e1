"""Tests of the `serve` command: one pair of real servers that most tests share, its end, its options."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from flows.cli.serve import _config, _sigterm_as_ctrl_c
from sampling import DualPrompt, DualSampler, SamplingConfig
from sampling.errors import ConfigurationError
from tests.sampling.served.servers import START_S, free_port

KEYS = {"theta": "theta-Wq4pVn81", "teacher": "teacher-8sZkL2mB"}
VARIABLES = {f"DUAL_SAMPLING_{name.upper()}_API_KEY": key for name, key in KEYS.items()}
STOP_S = 30  # 5 s of grace, on busy cores
CODE = """
import flows.orchestration.environment
import argparse, json, sys
from flows.cli.serve import serve
serve(argparse.Namespace(**json.loads(sys.argv[1])))
"""


def arguments(teacher: object, theta: object, **given: Any) -> dict[str, Any]:
    """Return the command line's arguments."""
    values = {"host": "127.0.0.1", "theta_port": 9000, "teacher_port": 9001, "gpu_memory_utilization": 0.9}
    values |= {"max_model_len": 256, "max_num_seqs": 8, "max_logprobs": 40, "dtype": "auto", "logs": "serve-logs"}
    values |= {"allow_anonymous": False}
    return {**values, "debug": False, "teacher": str(teacher), "theta": str(theta), **given}


@dataclass
class Command:
    """A running `serve`, in a folder of its own."""

    process: subprocess.Popen[str]
    folder: Path
    ports: dict[str, int]

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    def log(self, name: str) -> str:
        return (self.folder / "serve-logs" / f"{name}.log").read_text()

    def descendants(self) -> list[psutil.Process]:
        """Guards, servers, engines."""
        return list(psutil.Process(self.process.pid).children(recursive=True))

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def start(folder: Path, pair: tuple[Path, Path]) -> Command:
    """Run the command in a folder that holds a broken package named vllm, which must not be imported."""
    (folder / "vllm").mkdir()
    (folder / "vllm" / "__init__.py").write_text("raise ImportError('the current directory shadows vLLM')")
    ports = {"theta": free_port(), "teacher": free_port()}
    given = arguments(*pair, theta_port=ports["theta"], teacher_port=ports["teacher"])
    with (folder / "stderr").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", CODE, json.dumps(given)],
            cwd=folder,
            env={**os.environ, **VARIABLES, "HF_TOKEN": "s3cret", "AWS_SECRET_ACCESS_KEY": "s3cret"},
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
        )
    return Command(process, folder, ports)


def read_until(command: Command, last: str) -> str:
    """Return stdout up to the line that starts with `last`."""
    assert command.process.stdout is not None
    lines: list[str] = []
    while not lines or not lines[-1].strip().startswith(last):
        line = command.process.stdout.readline()
        assert line, command.stderr
        lines.append(line)
    return "".join(lines)


def assert_gone(processes: list[psutil.Process], ports: dict[str, int]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=STOP_S)
    # a container's init may leave zombies
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    for port in ports.values():
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))


@pytest.fixture(scope="module")
def served(tiny_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Command, str]]:
    """Yield the running command with its stdout, once both servers answer."""
    command = start(tmp_path_factory.mktemp("serve"), tiny_pair)
    try:
        yield command, read_until(command, "teacher: ")
    finally:
        command.kill()


@pytest.mark.slow
def test_it_prints_the_addresses_and_the_lines_for_a_configuration(
    served: tuple[Command, str], tiny_pair: tuple[Path, Path]
) -> None:
    command, out = served
    urls = {name: f"http://127.0.0.1:{port}" for name, port in command.ports.items()}
    assert f"theta    {urls['theta']}\nteacher  {urls['teacher']}\n" in out
    teacher, theta = map(str, tiny_pair)
    assert yaml.safe_load(out[out.index("models:") :]) == {
        "models": {
            "theta": {"model": theta, "url": urls["theta"]},
            "teacher": {"model": teacher, "url": urls["teacher"]},
        }
    }
    *waiting, ready = command.stderr.splitlines()
    assert waiting[0].startswith("starting theta and teacher: ")
    assert ready.startswith("ready in ")


@pytest.mark.slow
def test_two_servers_couple(served: tuple[Command, str], monkeypatch: pytest.MonkeyPatch) -> None:
    command, _ = served
    for name, key in VARIABLES.items():
        monkeypatch.setenv(name, key)
    theta_url, teacher_url = (f"http://127.0.0.1:{command.ports[name]}" for name in ("theta", "teacher"))
    with DualSampler(backend="http", theta_url=theta_url, teacher_url=teacher_url) as sampler:
        prompt = DualPrompt(teacher="2 + 2 = 4", theta="2 + 2 = ", id="a")
        (out,) = sampler.generate([prompt], SamplingConfig(max_tokens=4))
    assert len(out.token_ids) == 4 or out.finish_reason == "eos"


@pytest.mark.slow
def test_the_options_reach_the_servers(served: tuple[Command, str]) -> None:
    command, _ = served
    for name, key in KEYS.items():
        url = f"http://127.0.0.1:{command.ports[name]}"
        cards = httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}).json()["data"]
        assert cards[0]["max_model_len"] == 256
        (cache,) = [
            line
            for line in httpx.get(f"{url}/metrics", headers={"Authorization": f"Bearer {key}"}).text.splitlines()
            if line.startswith("vllm:cache_config_info{")
        ]
        assert 'enable_prefix_caching="True"' in cache
        asked = {"model": cards[0]["id"], "prompt": [1], "max_tokens": 1, "logprobs": 41}
        answer = httpx.post(f"{url}/v1/completions", json=asked, headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 400
        assert "max allowed: 40" in answer.text


@pytest.mark.slow
def test_each_server_demands_its_own_key(served: tuple[Command, str]) -> None:
    command, _ = served
    url = f"http://127.0.0.1:{command.ports['theta']}"
    assert httpx.get(f"{url}/health").status_code == 200
    # vLLM itself guards /v1 alone; /invocations draws completions
    for path in ("/v1/models", "/metrics", "/version", "/ping", "/load", "/docs", "/openapi.json", "/nothing"):
        assert httpx.get(url + path).status_code == 401, path
    for path in ("/v1/completions", "//v1/completions", "/invocations", "/tokenize", "/detokenize", "/health/../ping"):
        assert httpx.post(url + path, json={"prompt": "a", "max_tokens": 1}).status_code == 401, path
    url += "/v1/models"
    for key in (KEYS["teacher"], f"{KEYS['theta']}x"):
        assert httpx.get(url, headers={"Authorization": f"Bearer {key}"}).status_code == 401
    assert httpx.get(url, headers={"Authorization": f"Basic {KEYS['theta']}"}).status_code == 401
    assert httpx.get(url, headers={"Authorization": f"Bearer {KEYS['theta']}"}).status_code == 200


@pytest.mark.slow
def test_each_server_has_no_other_secret(served: tuple[Command, str]) -> None:
    command, _ = served
    for process in command.descendants():
        line = " ".join(process.cmdline())
        found = {
            name: value for name, value in process.environ().items() if "s3cret" in value or value in KEYS.values()
        }
        own = [KEYS[name] for name, port in command.ports.items() if f"--port={port}" in line]
        if own:
            assert found == {"VLLM_API_KEY": own[0]}, line
        else:  # a server's own child, which names no port, and may write its title over its environment
            assert set(found) <= {"VLLM_API_KEY"}, line


@pytest.mark.slow
def test_the_logs_are_for_their_user_alone(served: tuple[Command, str]) -> None:
    logs = served[0].folder / "serve-logs"
    assert logs.stat().st_mode & 0o777 == 0o700
    assert {log.stat().st_mode & 0o777 for log in logs.iterdir()} == {0o600}


@pytest.mark.slow
def test_no_key_is_printed(served: tuple[Command, str]) -> None:
    command, out = served
    lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert sum(f"--port={port}" in line for port in command.ports.values() for line in lines) >= 2
    text = "\n".join([*lines, out, command.stderr, command.log("theta"), command.log("teacher")])
    for key in KEYS.values():
        assert key not in text


@pytest.mark.slow
def test_the_logs_hold_no_request(served: tuple[Command, str]) -> None:
    command, _ = served
    for name in KEYS:
        assert "Application startup complete" in command.log(name)
        assert "GET /" not in command.log(name)


@pytest.mark.slow
def test_ctrl_c_stops_both_and_is_a_normal_end(served: tuple[Command, str]) -> None:
    command, _ = served
    processes = command.descendants()
    assert len(processes) >= 6  # guard, server, engine, twice
    command.process.send_signal(signal.SIGINT)
    assert command.process.wait(STOP_S) == 0
    assert command.stderr.endswith("both servers are stopped\n")
    assert "Traceback" not in command.stderr
    assert_gone(processes, command.ports)


@pytest.mark.slow
def test_kill_9_while_they_start_leaves_nothing(tmp_path: Path, tiny_pair: tuple[Path, Path]) -> None:
    command = start(tmp_path, tiny_pair)
    try:
        deadline = time.monotonic() + START_S
        while len(processes := command.descendants()) < 4:  # each guard has started its server
            assert command.process.poll() is None, command.stderr
            assert time.monotonic() < deadline, command.stderr
            time.sleep(0.2)
    finally:
        command.kill()
    assert_gone(processes, command.ports)


def test_sigterm_counts_as_ctrl_c() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), _sigterm_as_ctrl_c():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"theta_port": 70000}, "--theta-port: 70000 is not allowed"),
        ({"gpu_memory_utilization": 1.5}, "--gpu-memory-utilization: 1.5 is not allowed"),
        ({"max_model_len": 2}, "--max-model-len: 2 is not allowed"),
        ({"dtype": "int4"}, "--dtype: 'int4' is not allowed"),
    ],
)
def test_a_wrong_option_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        _config(argparse.Namespace(**arguments("a", "b", **given)))
