"""Tests of the kernel's self-test, in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sampling import MixtureConfig
from sampling.mixture.kernel.probe import disagreement

ROOT = Path(__file__).parents[4]
# A separate process: Triton reads TRITON_INTERPRET only when it is imported.
SCRIPT = """
import sys
from dataclasses import replace
import torch
from sampling import MixtureConfig
from sampling.mixture.kernel import probe
from sampling.mixture.kernel.launch import DEFAULT_TILES
from tests.sampling.mixture.kernel.cases import SMALL_TILES

kernel = probe.draw


def perturbed(*args, **kwargs):
    tokens, diagnostics = kernel(*args, **kwargs)
    diagnostics[2, 1] += 1e-4
    return tokens, diagnostics


mixture = MixtureConfig.preset("balanced", auto_fallback=False)
for probe.draw in (kernel, perturbed):
    print(probe.disagreement(torch.device("cpu"), 300, mixture, tiles=SMALL_TILES))
probe.draw = kernel
few_blocks = replace(DEFAULT_TILES, row_block=16_384)  # each costs the interpreter the same
print(probe.disagreement(torch.device("cpu"), 32_000, MixtureConfig.preset("exploratory"), tiles=few_blocks))
"""


@pytest.mark.slow
def test_a_right_kernel_passes_and_a_diagnostic_off_by_1e_4_does_not() -> None:
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT]
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    right, perturbed, uniform = ended.stdout.strip().splitlines()
    assert right == "None"
    assert uniform == "None"  # 32,000 ids, one row nearly uniform: α is determined by a slope of 1e-4 alone
    assert perturbed.startswith("kl_theta [")


def test_a_device_that_cannot_run_it_is_a_disagreement() -> None:
    """Without the interpreter Triton refuses tensors on a CPU."""
    assert disagreement(torch.device("cpu"), 300, MixtureConfig()) is not None
