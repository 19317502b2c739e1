"""The bytes that a model needs, counted from its files."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from sampling import MixtureConfig, ModelConfig, SamplingConfig
from sampling.mixture.draw import draw_indices
from sampling.mixture.mixture import mix
from sampling.models.footprint import (
    activations_bytes,
    head_bytes,
    kv_bytes_per_token,
    loaded_bytes,
    logits_bytes,
    mixing_bytes,
)
from tests.sampling.allocations import peak_bytes
from tests.sampling.shapes import LARGE, dummy
from tests.tiny import make_adapter


def test_bytes_a_token(tiny_pair: tuple[Path, Path]) -> None:
    """Keys and values of 2 layers, 1 head, 32 wide: 2·2·1·32 numbers."""
    model = ModelConfig(model=str(tiny_pair[0]))
    assert kv_bytes_per_token(model, "cpu") == 128 * 4
    assert kv_bytes_per_token(model, "cuda") == 128 * 2  # vLLM loads this float32 file as bfloat16
    assert kv_bytes_per_token(ModelConfig(model=model.model, dtype="bfloat16"), "cpu") == 128 * 2
    assert kv_bytes_per_token(ModelConfig(model=model.model, dtype="float32"), "cuda") == 128 * 4


def test_weights_count_in_the_precision_they_are_loaded_in(tiny_pair: tuple[Path, Path]) -> None:
    model = ModelConfig(model=str(tiny_pair[0]))
    numbers = sum(tensor.numel() for tensor in load_file(tiny_pair[0] / "model.safetensors").values())
    assert loaded_bytes(model, "cpu") == 4 * numbers
    assert loaded_bytes(model, "cuda") == 2 * numbers


def test_a_split_model_lies_on_each_gpu_in_part(tmp_path: Path) -> None:
    """Qwen3-14B has 8 key-value heads; 16 GPUs have one each. On a CPU its processes share the machine."""
    whole = dummy(tmp_path / "model", LARGE)
    for size, heads in ((2, 4), (8, 1), (16, 1)):
        model = whole.model_copy(update={"tensor_parallel_size": size})
        assert loaded_bytes(model, "cuda") == loaded_bytes(whole, "cuda") // size
        assert kv_bytes_per_token(model, "cuda") == 2 * 40 * heads * 128 * 2
        assert loaded_bytes(model, "cpu") == loaded_bytes(whole, "cpu") == 2 * loaded_bytes(whole, "cuda")


def test_activations_logits_and_head(tmp_path: Path) -> None:
    """A token of Qwen3-14B takes (3·17408 + 4·5120)·2 bytes of activations; its head has 151936·5120 numbers."""
    model = dummy(tmp_path / "model", LARGE)
    assert activations_bytes(model, 40960, "cuda") == 40960 * 72704 * 2
    assert head_bytes(model, "cuda") == 151936 * 5120 * 2
    assert logits_bytes(model, 256, "cuda") == 2 * 256 * 151936 * 2


def test_an_adapter_counts_on_every_matrix(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    """vLLM allocates two slots of rank 8, its smallest, on all matrices: 2·8·(rows + columns) numbers each."""
    model = ModelConfig(model=str(tiny_pair[0]))
    adapted = model.model_copy(update={"lora": str(make_adapter(tmp_path, tiny_pair[0]))})
    matrices = [tensor for tensor in load_file(tiny_pair[0] / "model.safetensors").values() if tensor.dim() == 2]
    assert loaded_bytes(adapted, "cpu") - loaded_bytes(model, "cpu") == 4 * 2 * 8 * sum(sum(m.shape) for m in matrices)


def test_mixing_holds_no_more_than_planned() -> None:
    """Counts every tensor that plain torch allocates while it mixes."""
    rows, columns = 4, 5000
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(rows, columns, generator=generator)
    theta = teacher + 0.1 * torch.randn(rows, columns, generator=generator)
    zeros = torch.zeros(rows, dtype=torch.int64)

    def draw(preset: Any, **cut: Any) -> None:
        mixture = mix(theta, teacher, zeros > 0, columns, MixtureConfig.preset(preset), SamplingConfig(**cut))
        draw_indices(mixture.log_q, 0, zeros, zeros)

    for preset in ("balanced", "exploratory"):
        for cut in ({}, {"top_k": 50}, {"top_p": 0.9}):
            peak = peak_bytes(partial(draw, preset, **cut))
            assert mixing_bytes(rows, columns) / 3 < peak < mixing_bytes(rows, columns), (preset, cut)
