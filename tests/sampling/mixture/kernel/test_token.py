"""Tests of the kernel in Triton's interpreter, against plain torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sampling.mixture.torch_draw import COLUMNS
from tests.sampling.mixture.kernel.cases import Case, cases
from tests.sampling.mixture.kernel.plain import compare, plain

CASES = {case.name: case for case in cases()}
FAST = ("kl_symmetry, balanced", "top-k, in a short list", "five ids cut, whole")
ROOT = Path(__file__).parents[4]


def interpret(file: Path, *names: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Return what the interpreter drew of every case, or of those named, by name."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.sampling.mixture.kernel.cases", str(file), *names]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, check=True, timeout=500)
    loaded: dict[str, tuple[Tensor, Tensor]] = torch.load(file)
    return loaded


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tensor, Tensor]]:
    """Every case, interpreted in 150 s."""
    return interpret(tmp_path_factory.mktemp("kernel") / "drawn.pt")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_draws_what_plain_torch_draws(case: Case, interpreted: dict[str, tuple[Tensor, Tensor]]) -> None:
    compare(case, interpreted[case.name])


def test_draws_what_plain_torch_draws_of_a_few_cases(tmp_path: Path) -> None:
    for name, found in interpret(tmp_path / "drawn.pt", *FAST).items():
        compare(CASES[name], found)


@pytest.mark.slow
def test_the_cases_reach_every_mode_and_both_outcomes_of_every_check() -> None:
    diagnostics = torch.cat([plain(case)[1] for case in CASES.values()])
    for name, values in (("mode", {0, 1, 2}), ("finite", {0, 1}), ("constrained", {0, 1}), ("unstable", {0, 1})):
        assert set(diagnostics[:, COLUMNS.index(name)].tolist()) == values
    assert diagnostics[:, COLUMNS.index("kl_theta")].isinf().any()
