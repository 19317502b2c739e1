"""Tests of the kernel's launch: the settings it supports, its compilation for a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sampling import MixtureConfig, SamplingConfig
from sampling.config import AlphaMethod
from sampling.mixture.kernel.launch import METHODS, supports
from sampling.mixture.torch_draw import COLUMNS

ROOT = Path(__file__).parents[4]
# Triton compiles for a device that is absent: types, shapes and shared memory are checked, numbers are not.
COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sampling.mixture.kernel.launch import DEFAULT_TILES as tiles
from sampling.mixture.kernel.token import draw_tokens

integers = "theta_stride teacher_stride num_ids overlap_top_k top_k".split()
kinds = {"theta": "*bf16", "teacher": "*bf16", **dict.fromkeys(integers, "i32"), "reals": "*fp64", "seeds": "*i64"}
kinds |= {"keys": "*i64", "positions": "*i64", "candidate_ids": "*i32", "tokens": "*i64", "diagnostics": "*fp64"}
names = draw_tokens.arg_names
signature = {name: kinds.get(name, "constexpr") for name in names}
for cut in (False, True):
    fixed = dict(METHOD=1, TRUST=not cut, CHECK=True, FORCE=True, AUTO=True, GREEDY=False, CUT=cut, LOW_BITS=16,
                 BLOCK=tiles.block, ROW_BLOCK=tiles.row_block, SMALL=tiles.small, LIST=tiles.listed, MIN_CANDIDATES=256)
    source = ASTSource(draw_tokens, signature, {(names.index(name),): value for name, value in fixed.items()})
    kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": tiles.num_warps})
    print(kernel.metadata.shared)
"""


def test_columns_have_the_order_of_the_kernels_stores_and_methods_are_the_configs() -> None:
    stored = "alpha kl_theta kl_teacher kl_error js overlap_mass overlap_count support_size entropy ess_ratio log_z"
    stored += " logprob_q logprob_theta logprob_teacher q_error js_error mode finite constrained unstable"
    assert " ".join(COLUMNS) == stored
    assert set(METHODS) == set(AlphaMethod.__args__)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("mixture", "sampling", "supported"),
    [
        ({}, {}, True),
        ({"preset": "exploratory"}, {"temperature": 0}, True),
        ({}, {"top_p": 0.9, "top_k": 5, "min_p": 0.1}, True),
        ({}, {"temperature": 1e-9}, False),
        ({"target_top_p": 1.0}, {}, False),
        ({"target_top_p": 1.0, "trust_region": False}, {}, True),
    ],
)
def test_supported_settings(mixture: dict[str, Any], sampling: dict[str, Any], supported: bool) -> None:
    assert supports(MixtureConfig.model_validate(mixture), SamplingConfig.model_validate(sampling)) is supported


@pytest.mark.slow
def test_it_compiles_for_hopper(tmp_path: Path) -> None:
    env = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    env.pop("TRITON_INTERPRET", None)
    script = tmp_path / "compile_kernel.py"  # Triton reads a kernel's source from its file
    script.write_text(COMPILE)
    command = [sys.executable, "-W", "ignore", str(script)]
    ended = subprocess.run(
        command, cwd=ROOT, env={**env, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    sizes = list(map(int, ended.stdout.split()))
    assert len(sizes) == 2
    assert 0 < min(sizes) <= max(sizes) < 100 * 1024  # bytes: two programs share a multiprocessor's 228 KB
