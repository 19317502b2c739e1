"""The trial of the kernel, here in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from sampling import MixtureConfig
from sampling.mixture.kernel.probe import disagreement

ROOT = Path(__file__).parents[4]
# A process of its own: Triton looks at TRITON_INTERPRET once, when it is imported.
SCRIPT = """
import sys
from dataclasses import replace
import torch
from sampling import MixtureConfig
from sampling.mixture.kernel import probe
from sampling.mixture.kernel.launch import DEFAULT_TILES
from tests.sampling.mixture.kernel.cases import SMALL_TILES

kernel = probe.draw


def spoilt(*args, **kwargs):
    tokens, figures = kernel(*args, **kwargs)
    figures[2, 1] += 1e-4
    return tokens, figures


mixture = MixtureConfig.preset("balanced", auto_fallback=False)
for probe.draw in (kernel, spoilt):
    print(probe.disagreement(torch.device("cpu"), 300, mixture, tiles=SMALL_TILES))
probe.draw = kernel
few_blocks = replace(DEFAULT_TILES, row_block=16_384)  # each costs the interpreter the same
print(probe.disagreement(torch.device("cpu"), 32_000, MixtureConfig.preset("exploratory"), tiles=few_blocks))
"""


def test_a_right_kernel_passes_and_a_figure_off_by_1e_4_does_not() -> None:
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT]
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    right, spoilt, even = ended.stdout.strip().splitlines()
    assert right == "None"
    assert even == "None"  # 32,000 ids, a row of them nearly even: alpha is told by a slope of 1e-4 alone
    assert spoilt.startswith("kl_theta [")


def test_a_device_that_cannot_run_it_is_no_crash() -> None:
    """Without the interpreter Triton refuses tensors on a CPU."""
    assert disagreement(torch.device("cpu"), 300, MixtureConfig()) is not None
