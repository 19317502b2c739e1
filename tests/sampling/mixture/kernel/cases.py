"""Test cases of the kernel: rows of logits with their settings.

    TRITON_INTERPRET=1 python -m tests.sampling.mixture.kernel.cases FILE [NAME …]

draws all of them, or those named, with the kernel and saves tokens with diagnostics. It is a separate process because
Triton reads that variable only when it is imported, and vLLM imports it in other tests.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sampling import MixtureConfig, SamplingConfig
from sampling.config import PresetName
from sampling.mixture.kernel.launch import DEFAULT_TILES, Tiles, draw

NUM_IDS = 300
INF = math.inf
SMALL_TILES = Tiles(block=64, row_block=64, small=16, listed=64, num_warps=1)  # lists overflow, rows have many blocks


@dataclass(frozen=True, slots=True)
class Case:
    """Rows with their settings."""

    name: str
    theta: Tensor
    teacher: Tensor
    mixture: MixtureConfig
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(seed=2**40 + 5))
    num_ids: int = NUM_IDS
    first: bool = False
    tiles: Tiles = SMALL_TILES

    @property
    def positions(self) -> Tensor:
        """Every row's position in its completion [B] int64."""
        return torch.zeros(len(self.theta), dtype=torch.int64) if self.first else torch.arange(1, len(self.theta) + 1)

    @property
    def keys(self) -> Tensor:
        """Every row's key [B] int64; all 63 bits are used."""
        return torch.arange(len(self.theta)) * 0x1234_5678_9ABC_DEF + 77


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair(seed: int, scale: float, rows: int = 2, width: int = NUM_IDS) -> tuple[Tensor, Tensor]:
    """Two rows' logits that have half in common; columns past `width` are padding that must not be read."""
    theta = noise(seed, rows, width + 20) * scale
    teacher = noise(seed + 1, rows, width + 36) * scale
    teacher[:, : width + 20] += theta / 2
    theta[:, width:], teacher[:, width:] = 100.0, math.nan
    return theta, teacher


def context(preset: PresetName, **overrides: Any) -> MixtureConfig:
    return MixtureConfig.preset(preset, **overrides)


def with_holes() -> tuple[Tensor, Tensor]:
    """Every fourth id is unknown to theta, every fifth to the teacher; one of them would be its likeliest."""
    theta, teacher = pair(30, 3.0)
    teacher[:, 8] = 20.0
    theta[:, ::4], teacher[:, ::5] = -INF, -INF
    return theta, teacher


def one_hots() -> tuple[Tensor, Tensor]:
    """Each side alone, both on one id, both on two ids: the last two rows share nothing."""
    theta, teacher = pair(31, 2.0, rows=5)
    for row, side, index in ((0, theta, 7), (1, teacher, 200), (2, theta, 9), (2, teacher, 9), (3, theta, 1)):
        side[row, :NUM_IDS] = -INF
        side[row, index] = 0.5
    teacher[3, :NUM_IDS] = -INF
    teacher[3, 2] = 1.0
    theta[4, :150], teacher[4, 150:NUM_IDS] = -INF, -INF
    return theta, teacher


def unusable() -> tuple[Tensor, Tensor]:
    """NaN, +inf, all −inf, on either side; the last row is sound."""
    theta, teacher = pair(32, 2.0, rows=7)
    for kind, value in enumerate((math.nan, INF, -INF)):
        for row, side in ((2 * kind, theta), (2 * kind + 1, teacher)):
            side[row, 5 if value != -INF else slice(None)] = value
    return theta, teacher


def cases() -> list[Case]:
    """Return all cases, the same at every call."""
    bf16 = torch.bfloat16
    presets: tuple[PresetName, ...] = ("balanced", "exploratory")
    built: list[Case] = []

    def add(name: str, rows: tuple[Tensor, Tensor], mixture: MixtureConfig, dtype: Any = bf16, **more: Any) -> None:
        theta, teacher = rows
        types = dtype if isinstance(dtype, tuple) else (dtype, dtype)
        built.append(Case(name, theta.to(types[0]), teacher.to(types[1]), mixture, **more))

    for method in ("kl_symmetry", "ess_balance", "entropy", "fixed"):
        for preset in presets:
            mixture = context(preset, alpha_method=method, alpha=0.3, auto_fallback=False)
            add(f"{method}, {preset}", pair(1, 4.0), mixture)
    for method in ("kl_symmetry", "ess_balance"):
        add(f"{method}, support larger than the list", pair(3, 0.4), context("balanced", alpha_method=method))
    add("float32", pair(5, 3.0), context("balanced", auto_fallback=False), torch.float32)
    add("float32, whole", pair(5, 3.0), context("exploratory"), torch.float32)
    add("float16 beside bfloat16", pair(6, 3.0), context("balanced"), (torch.float16, bf16))
    add("conservative", pair(7, 3.0, rows=3), context("conservative"))
    add("unstable, only counted", pair(8, 3.0), context("balanced", stability_threshold_js=0.01, auto_fallback=False))
    add("unstable, whole", pair(8, 3.0), context("exploratory", stability_check=True, stability_threshold_js=0.01))
    add("little overlap", pair(9, 3.0, 1), context("balanced", stability_threshold_overlap=0.99))
    add("forced", pair(10, 3.0, 1), context("balanced"), first=True)
    add("first, not forced", pair(10, 3.0, 1), context("balanced", force_first_token=False), first=True)
    for temperature in (0.0, 0.7, 1.5):
        for preset in presets:
            sampling = SamplingConfig(temperature=temperature, seed=3)
            add(f"temperature {temperature}, {preset}", pair(11, 3.0, 1), context(preset), sampling=sampling)
    for preset in presets:
        ties = tuple(side.round() for side in pair(12, 1.5))
        add(f"ties, {preset}", ties, context(preset), tiles=Tiles(64, 64, 16, 256, 1))  # type: ignore[arg-type]
        add(f"ties beyond the list, {preset}", ties, context(preset))  # type: ignore[arg-type]
        same = torch.zeros(1, NUM_IDS), torch.zeros(1, NUM_IDS)
        add(f"all ids alike, {preset}", same, context(preset))
        add(f"holes, {preset}", with_holes(), context(preset))
        add(f"one-hots, {preset}", one_hots(), context(preset))
        add(f"identical, {preset}", (pair(13, 2.0)[0],) * 2, context(preset))
        theta, teacher = (noise(seed, 2, 5) for seed in (14, 15))
        add(f"five ids, {preset}", (theta, teacher), context(preset), num_ids=5)
        far = noise(16, 2, NUM_IDS) * 400, noise(17, 2, NUM_IDS) * 400
        add(f"far apart, {preset}", far, context(preset, auto_fallback=False))
    cuts: dict[str, dict[str, Any]] = {
        "top-p": {"top_p": 0.8},
        "top-k": {"top_k": 5},
        "min-p": {"min_p": 0.3, "temperature": 1.5},
        "all three": {"top_p": 0.7, "top_k": 12, "min_p": 0.01},
        "greedy top-k": {"top_k": 3, "temperature": 0.0},
    }
    list_tiles = {"in a short list": Tiles(512, 64, 256, 512, 1), "in a list": Tiles(512, 64, 16, 512, 1)}
    for name, given in cuts.items():
        sampling = SamplingConfig(seed=4, **given)
        for path, tiles in list_tiles.items():
            mixture = context("balanced", auto_fallback=False)
            add(f"{name}, {path}", pair(21, 2.0, rows=1), mixture, sampling=sampling, tiles=tiles)
        for preset in presets:
            add(f"{name}, {preset}", pair(21, 2.0, rows=1), context(preset, auto_fallback=False), sampling=sampling)
    some, whole = SamplingConfig(seed=6, top_k=4, top_p=0.95), context("exploratory", auto_fallback=False)
    ties = tuple(side.round() for side in pair(22, 1.5))
    add("ties cut", ties, context("balanced"), sampling=some, tiles=list_tiles["in a list"])  # type: ignore[arg-type]
    add("ties cut, whole", ties, whole, sampling=some)  # type: ignore[arg-type]
    add("holes cut, whole", with_holes(), whole, sampling=some)
    add("one-hots cut", one_hots(), context("balanced"), sampling=some)
    add("forced and cut", pair(23, 3.0, rows=1), context("balanced"), first=True, sampling=some)
    add("five ids cut, whole", (noise(24, 2, 5), noise(25, 2, 5)), whole, num_ids=5, sampling=some)
    wide = SamplingConfig(seed=8, top_p=0.7, min_p=0.05)
    add("cut beyond the list", pair(26, 0.4, rows=1), context("balanced", auto_fallback=False), sampling=wide)
    add("unusable, cut", unusable(), context("balanced"), sampling=wide, tiles=list_tiles["in a list"])
    # α within float32's rounding of an end; the teacher's likeliest id is far from theta's
    apart = pair(27, 1.0, rows=1)
    apart[0][:, 5], apart[1][:, 9] = 12.0, 14.0
    for alpha in (1 - 1e-9, 1e-9):
        for name, sampling in (("", SamplingConfig(seed=9)), (" cut", SamplingConfig(seed=9, top_p=0.8))):
            mixture = context("exploratory", alpha_method="fixed", alpha=alpha)
            add(f"alpha {alpha}{name}", apart, mixture, sampling=sampling)
    # The trust region is small, yet theta's ties overflow the list
    flat, peaks = torch.zeros(2, NUM_IDS), torch.full((2, NUM_IDS), -9.0)
    peaks[:, [3, 7, 11]] = torch.tensor([1.0, 2.0, 3.0])
    add("ties overflow a list that would fit", (flat, peaks), context("balanced", auto_fallback=False))
    # Theta lacks ids of the region; the list holds the region, then does not
    partial = pair(30, 2.0)
    partial[0][:, ::4], partial[1][:, ::5] = -INF, -INF
    add("holes, forced", partial, context("balanced"), first=True, tiles=list_tiles["in a list"])
    theta, teacher = pair(3, 0.4)
    theta.scatter_(1, teacher[:, :NUM_IDS].argsort(descending=True)[:, 120:160], -INF)
    add("holes beyond the list, forced", (theta, teacher), context("balanced"), first=True)
    for width in (319, 400, 64 * 33 + 7):  # blocks end one id before the row, past it; there are more than 32
        add(f"{width} ids", pair(1, 2.0, width=width), context("balanced"), num_ids=width)
    add("holes, counted", with_holes(), context("exploratory", auto_fallback=False))
    add("holes, theta alone", with_holes(), context("balanced", alpha_method="fixed", alpha=0.0, auto_fallback=False))
    add("holes, theta alone, whole", with_holes(), context("exploratory", alpha_method="fixed", alpha=0.0))
    add("unusable", unusable(), context("balanced"))
    masked = pair(18, 2.0)
    masked[0][:, 50:120] = torch.finfo(bf16).min
    add("finite masks", masked, context("exploratory", stability_check=False))
    halved = tuple(side[1:] for side in pair(18, 2.0))
    halved[0][:, 50:] = torch.finfo(bf16).min
    many = SamplingConfig(seed=2, top_k=5000)
    add("finite masks, cut", halved, context("exploratory", stability_check=False), sampling=many)  # type: ignore[arg-type]
    peaked = noise(19, 1, 151_936) * 3, noise(20, 1, 151_936) * 3
    for preset in presets:
        mixture = context(preset, auto_fallback=False)
        add(f"151,936 ids, {preset}", peaked, mixture, num_ids=151_936, tiles=DEFAULT_TILES)
    return built


def drawn(case: Case, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Return the kernel's tokens and diagnostics of a case, on the CPU."""
    theta, teacher = case.theta.to(device), case.teacher.to(device)
    positions, keys = case.positions.to(device), case.keys.to(device)
    tokens, diagnostics = draw(theta, teacher, positions, keys, case.num_ids, case.mixture, case.sampling, case.tiles)
    return tokens.cpu(), diagnostics.cpu()


if __name__ == "__main__":
    torch.set_num_threads(1)
    file, *names = sys.argv[1:]
    torch.save({case.name: drawn(case) for case in cases() if not names or case.name in names}, file)
