"""A benchmark of the kernel against plain torch: milliseconds a step, largest differences of the diagnostics.

    python -m tests.bench.kernel                                   # on a GPU: [256, 151936] bfloat16
    python -m tests.bench.kernel --rows 32 256 --num-ids 151936 --scales 0.04 2 4 zipf
    TRITON_INTERPRET=1 python -m tests.bench.kernel --rows 2 --num-ids 300 --repeats 1    # on a CPU: the script itself

Logits are normal with a given standard deviation (0.04: as dummy weights give), or fall with the rank's logarithm
(zipf: about a language model's). Times are medians of CUDA events over rotating inputs that the L2 cache does not hold.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from sampling import MixtureConfig, SamplingConfig
from sampling.mixture.kernel.launch import DEFAULT_TILES, Tiles, draw
from sampling.mixture.torch_draw import COLUMNS
from tests.sampling.mixture.kernel.cases import Case
from tests.sampling.mixture.kernel.plain import plain

NUM_INPUTS = 3  # of 156 MB each at [256, 151,936]: three times an H200's L2 cache
CHECKED_ROWS = 8  # plain torch takes 12 float64 tensors of [rows, ids]


def main() -> None:
    """Measure every combination and print one line each."""
    options = _options()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tiles = Tiles(64, 64, 16, 128, 1)
    if device == "cuda":
        tiles = Tiles(
            options.block, options.row_block, options.small, options.listed, options.num_warps, options.max_registers
        )
    print(f"{torch.cuda.get_device_name() if device == 'cuda' else 'CPU'}, {options.dtype}, {tiles}")
    print("rows x ids           scale  preset       method        kernel ms  torch ms  tokens  largest differences")
    for rows in options.rows:
        for scale in options.scales:
            inputs = [_logits(rows, options.num_ids, scale, options.dtype, device, seed) for seed in range(NUM_INPUTS)]
            for preset in options.presets:
                for method in options.methods:
                    config = MixtureConfig.preset(preset, alpha_method=method, auto_fallback=False)
                    _measure(f"{rows:4d} x {options.num_ids:7d} {scale:>10s}", inputs, config, options, tiles)


def _measure(label: str, inputs: list[Any], config: MixtureConfig, options: argparse.Namespace, tiles: Tiles) -> None:
    sampling, device = SamplingConfig(temperature=options.temperature, seed=1), inputs[0][0].device
    rows = len(inputs[0][0])
    positions = torch.ones(rows, dtype=torch.int64, device=device)
    keys = torch.arange(rows, device=device) * 7919

    def step(index: int) -> tuple[Tensor, Tensor]:
        theta, teacher = inputs[index]
        return draw(theta, teacher, positions, keys, options.num_ids, config, sampling, tiles)

    kernel_ms = _median_ms(step, options.repeats, device)
    few = min(rows, CHECKED_ROWS)
    theta, teacher = (side[:few].cpu() for side in inputs[0])
    case = Case("bench", theta, teacher, config, sampling, options.num_ids)
    tokens, diagnostics = draw(
        inputs[0][0][:few], inputs[0][1][:few], case.positions.to(device), case.keys.to(device),
        options.num_ids, config, sampling, tiles,
    )  # fmt: skip
    expected_tokens, expected = plain(case, str(device))
    errors = (diagnostics.cpu() - expected).abs().nan_to_num(0.0).amax(dim=0).tolist()
    worst = "  ".join(f"{name} {error:.0e}" for name, error in zip(COLUMNS, errors, strict=True) if error > 1e-8)
    torch_ms = float("nan")
    if not options.no_torch:
        whole = replace(case, theta=inputs[0][0], teacher=inputs[0][1])
        torch_ms = _median_ms(lambda _: plain(whole, str(device)), min(options.repeats, 3), device)
    same = int((tokens.cpu() == expected_tokens).sum())
    method = config.alpha_method
    print(f"{label}  {config.preset_name:12s} {method:12s} {kernel_ms:10.3f} {torch_ms:9.1f}  {same}/{few}  {worst}")


def _median_ms(step: Callable[[int], object], repeats: int, device: torch.device) -> float:
    for index in range(NUM_INPUTS):
        step(index)
    times_ms = []
    for turn in range(repeats):
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            step(turn % NUM_INPUTS)
            end.record()
            torch.cuda.synchronize()
            times_ms.append(begin.elapsed_time(end))
        else:
            start = time.perf_counter()
            step(turn % NUM_INPUTS)
            times_ms.append((time.perf_counter() - start) * 1e3)
    return median(times_ms)


def _logits(rows: int, num_ids: int, scale: str, dtype: str, device: str, seed: int) -> tuple[Tensor, Tensor]:
    """Return both models' logits [rows, num_ids], half of the teacher's shared with theta's."""
    generator = torch.Generator(device).manual_seed(seed)

    def noise() -> Tensor:
        return torch.randn(rows, num_ids, generator=generator, device=device)

    if scale == "zipf":
        ranks = torch.stack([torch.randperm(num_ids, generator=generator, device=device) for _ in range(rows)])
        fall = -2.0 * (ranks + 1.0).log()
        theta, teacher = fall + noise(), fall + noise()
    else:
        theta = noise() * float(scale)
        teacher = theta / 2 + noise() * float(scale)
    return theta.to(getattr(torch, dtype)), teacher.to(getattr(torch, dtype))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[256])
    parser.add_argument("--num-ids", type=int, default=151_936)
    parser.add_argument("--scales", nargs="+", default=["zipf", "0.04", "2", "4"])
    parser.add_argument("--presets", nargs="+", default=["balanced", "exploratory"])
    parser.add_argument("--methods", nargs="+", default=["kl_symmetry"])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=30)
    for name in ("block", "row_block", "small", "listed", "num_warps", "max_registers"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(DEFAULT_TILES, name))
    parser.add_argument("--no-torch", action="store_true", help="do not time plain torch")
    return parser.parse_args()


if __name__ == "__main__":
    main()
