"""The launcher of two servers: refusals before a start, the end of both when one ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from sampling.config import ModelConfig
from sampling.errors import ConfigurationError, EngineDiedError, OutputError, VocabularyMismatchError
from sampling.processes import guard
from sampling.processes.guard import GRACE_S
from sampling.served import serving
from sampling.served.serving import ServingConfig
from tests.sampling.served.servers import free_port
from tests.tiny import byte_tokenizer, make_model


def config_of(pair: tuple[Path, Path], folder: Path, **given: Any) -> ServingConfig:
    """Small servers on free ports."""
    values = {
        "theta": ModelConfig(model=str(pair[1]), max_model_len=256),
        "teacher": ModelConfig(model=str(pair[0]), max_model_len=256),
        "theta_port": free_port(),
        "teacher_port": free_port(),
        "logs": folder / "logs",
    }
    return ServingConfig(**{**values, **given})


@pytest.fixture(autouse=True)
def others() -> Iterator[None]:
    """Leave out the servers of other tests."""
    OTHERS.update(psutil.Process().children(recursive=True))
    yield
    OTHERS.clear()


OTHERS: set[psutil.Process] = set()


def children() -> list[psutil.Process]:
    """The processes that this test has started."""
    return [process for process in psutil.Process().children(recursive=True) if process not in OTHERS]


def assert_ended(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=1.0)
    # a container's init may not reap zombies
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_a_taken_port_is_refused_before_models_are_read(tmp_path: Path) -> None:
    nowhere = ModelConfig(model=str(tmp_path / "nowhere"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        config = config_of((tmp_path, tmp_path), tmp_path, theta=nowhere, teacher=nowhere, teacher_port=port)
        with pytest.raises(ConfigurationError, match=f"teacher's server cannot listen at 127.0.0.1 port {port}: Addr"):
            serving.Servers(config)
    assert not config.logs.exists()


@pytest.mark.parametrize(
    ("host", "keys", "allowed", "names"),
    [
        ("0.0.0.0", (), False, "theta"),
        ("::", (), False, "theta"),
        ("0.0.0.0", ("THETA",), False, "teacher"),
        ("0.0.0.0", ("THETA", "TEACHER"), False, None),
        ("0.0.0.0", (), True, None),
        ("127.0.0.2", (), False, None),
        ("localhost", (), False, None),
    ],
)
def test_a_server_without_a_key_listens_at_loopback_unless_it_is_allowed(
    host: str, keys: tuple[str, ...], allowed: bool, names: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("THETA", "TEACHER"):
        monkeypatch.delenv(f"DUAL_SAMPLING_{name}_API_KEY", raising=False)
    for name in keys:
        monkeypatch.setenv(f"DUAL_SAMPLING_{name}_API_KEY", "k")
    config = config_of((tmp_path, tmp_path), tmp_path, host=host, allow_anonymous=allowed)
    refusal = (
        f"{host}, and {names}'s server would ask nobody for a key: set .*_API_KEY, or allow it" if names else "no "
    )
    with pytest.raises(ConfigurationError, match=refusal):  # there is no model
        serving.Servers(config)


def test_one_port_for_both_is_refused(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    port = free_port()
    with pytest.raises(ConfigurationError, match=f"cannot both have port {port}"):
        serving.Servers(config_of(tiny_pair, tmp_path, theta_port=port, teacher_port=port))


def test_a_mistaken_pair_is_refused_before_a_start(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", seed=5, tokenizer=byte_tokenizer(("<|x|>",)))
    config = config_of(tiny_pair, tmp_path, theta=ModelConfig(model=str(other)))
    with pytest.raises(VocabularyMismatchError):
        serving.Servers(config)
    assert not config.logs.exists()


def test_a_log_folder_that_cannot_be_created_is_refused(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    with pytest.raises(OutputError, match="logs cannot be written"):
        serving.Servers(config_of(tiny_pair, tmp_path))
    assert not children()


@pytest.mark.slow
def test_a_server_that_cannot_start_names_its_log(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    theta = ModelConfig(model=str(tiny_pair[1]), quantization="gptq")  # its config.json names none
    config = config_of(tiny_pair, tmp_path, theta=theta)
    with pytest.raises(EngineDiedError) as caught, serving.serving(config):
        pass
    assert str(caught.value).startswith(f"theta's server ended with exit code 1; {config.logs}/theta.log ends: ")
    log = (config.logs / "theta.log").read_text().strip()
    assert "gptq" in log
    assert log.splitlines()[-1].strip() in str(caught.value)
    assert not children()


@pytest.mark.slow
def test_a_killed_server_ends_the_other(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    config = config_of(tiny_pair, tmp_path)
    started: list[psutil.Process] = []

    def kill_teacher(names: Sequence[str], elapsed_s: float) -> None:
        assert names == ["theta", "teacher"]
        started[:] = children()
        for process in started:
            command = process.cmdline()
            if f"--port={config.teacher_port}" in command and guard.__file__ not in command:
                process.kill()

    with pytest.raises(EngineDiedError, match="teacher's server ended by SIGKILL"):
        serving.Servers(config, kill_teacher)
    assert len(started) >= 3
    assert_ended(started)


@pytest.mark.slow
def test_a_guard_kills_processes_that_ignore_sigterm() -> None:
    stubborn = "trap '' TERM; sleep 1000 & echo ready; wait; sleep 1000"
    running = subprocess.Popen(
        [sys.executable, "-m", "sampling.processes.guard", "sh", "-c", stubborn],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert running.stdin is not None
    assert running.stdout is not None
    assert running.stdout.readline() == b"ready\n"
    processes = children()
    assert len(processes) == 3
    running.stdin.close()  # as the death of this process would
    assert running.wait(GRACE_S + 30) == 128 + signal.SIGKILL
    assert_ended(processes)
    running.stdout.close()
