"""The kernel in Triton's interpreter, against plain torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sampling.mixture.kernel.launch import COLUMNS
from tests.sampling.mixture.kernel.cases import Case, cases
from tests.sampling.mixture.kernel.plain import compare, plain

CASES = {case.name: case for case in cases()}
ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tensor, Tensor]]:
    """What the interpreter drew of every case, by name."""
    file = tmp_path_factory.mktemp("kernel") / "drawn.pt"
    command = [sys.executable, "-W", "ignore", "-m", "tests.sampling.mixture.kernel.cases", str(file)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, check=True, timeout=500)
    loaded: dict[str, tuple[Tensor, Tensor]] = torch.load(file)
    return loaded


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_draws_what_plain_torch_draws(case: Case, interpreted: dict[str, tuple[Tensor, Tensor]]) -> None:
    compare(case, interpreted[case.name])


def test_the_cases_reach_every_mode_and_both_outcomes_of_every_check() -> None:
    seen = torch.cat([plain(case)[1] for case in CASES.values()])
    for name, values in (("mode", {0, 1, 2}), ("finite", {0, 1}), ("constrained", {0, 1}), ("unstable", {0, 1})):
        assert set(seen[:, COLUMNS.index(name)].tolist()) == values
    assert seen[:, COLUMNS.index("kl_theta")].isinf().any()
