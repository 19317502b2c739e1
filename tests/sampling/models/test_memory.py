"""The memory plan: its sum, its split, its refusals."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sampling import EngineConfig, ModelConfig
from sampling.errors import CapacityError, ModelError
from sampling.models.footprint import (
    GRAPHS_BYTES,
    activations_bytes,
    head_bytes,
    loaded_bytes,
    logits_bytes,
    mixing_bytes,
)
from sampling.models.memory import BLOCK_TOKENS, DeviceMemory, check_max_tokens, device_memory, plan_memory
from tests.sampling.shapes import LARGE, SMALL, dummy

GIB = 1 << 30


def idle(num_bytes: int) -> DeviceMemory:
    """A device without other processes."""
    return DeviceMemory(num_bytes, num_bytes)


ENGINE = EngineConfig(max_num_seqs=4, max_num_batched_tokens=64, gpu_memory_utilization=0.5)


def test_every_term_of_the_sum(tiny_pair: tuple[Path, Path]) -> None:
    """2 layers of 1 head, 32 wide; 64 wide with an MLP of 128; 264 and 272 columns."""
    teacher, theta = (ModelConfig(model=str(path), max_model_len=256) for path in tiny_pair)
    plan = plan_memory(theta, teacher, ENGINE, "cuda", memory=idle(10 * GIB))
    row = 256 * 128 * 2
    assert plan.theta_bytes == plan.teacher_bytes == 4 * row + BLOCK_TOKENS * 256  # with vLLM's null block
    assert [model.num_rows for model in plan.models.values()] == [4, 4]
    assert plan.workspace == {
        "activations": 256 * (3 * 128 + 4 * 64) * 2,  # a prompt of 256 is prefilled whole, one model after the other
        "logits": 2 * 4 * (264 + 272) * 2,
        "mixing": mixing_bytes(4, 264),
        "CUDA graphs": 2 * GRAPHS_BYTES,
    }
    assert plan.limit_bytes == 5 * GIB
    weights = loaded_bytes(theta, "cuda") + loaded_bytes(teacher, "cuda")
    assert plan.total_bytes == weights + 2 * plan.theta_bytes + plan.workspace_bytes


def test_a_shortage_is_shared_by_rows(tmp_path: Path) -> None:
    """Two sizes on an H200: both caches hold the same rows, the sum is the limit."""
    theta, teacher = dummy(tmp_path / "theta", SMALL), dummy(tmp_path / "teacher", LARGE)
    engine = EngineConfig(max_num_seqs=256)
    plan = plan_memory(theta, teacher, engine, "cuda", memory=idle(140 * GIB))
    assert plan.models["teacher"].weights_bytes == pytest.approx(29.5e9, rel=0.01)
    assert plan.models["theta"].weights_bytes == pytest.approx(8.05e9, rel=0.01)
    assert 4 < plan.models["theta"].num_rows < 256
    assert abs(plan.models["theta"].num_rows - plan.models["teacher"].num_rows) <= 1
    assert plan.theta_bytes / plan.teacher_bytes == pytest.approx(36 / 40, rel=1e-3)
    assert plan.total_bytes == pytest.approx(126 * GIB, rel=1e-6)
    assert plan.total_bytes <= plan.limit_bytes


def test_rows_not_bytes_are_shared_where_contexts_differ(tiny_pair: tuple[Path, Path]) -> None:
    teacher = ModelConfig(model=str(tiny_pair[0]), max_model_len=1024)
    theta = ModelConfig(model=str(tiny_pair[1]), max_model_len=256)
    engine = ENGINE.model_copy(update={"max_num_seqs": 4000})
    least = plan_memory(theta, teacher, engine, "cpu", memory=idle(10 * GIB)).workspace_bytes
    plan = plan_memory(theta, teacher, engine, "cpu", memory=idle(least + 100 * (1 << 20)))
    assert plan.models["theta"].num_rows == pytest.approx(plan.models["teacher"].num_rows, abs=1)
    assert plan.theta_bytes * 4 == pytest.approx(plan.teacher_bytes, rel=0.01)


def test_a_pair_that_cannot_fit_is_refused_with_the_sum(tmp_path: Path) -> None:
    theta, teacher = dummy(tmp_path / "theta", SMALL), dummy(tmp_path / "teacher", LARGE)
    with pytest.raises(CapacityError) as caught:
        plan_memory(theta, teacher, EngineConfig(), "cuda", memory=idle(48 * GIB))
    text = str(caught.value)
    for term in ("theta's weights 7.5 GiB", "teacher's weights 27.5 GiB", "theta's KV cache 5.6 GiB (1 row of 40,960",
                 "teacher's KV cache 6.3 GiB (1 row of 40,960", "CUDA graphs 2.0 GiB", "of 43.2 GiB (90% of the GPU's"
                 " 48.0 GiB)", "lower max_model_len", "raise gpu_memory_utilization"):  # fmt: skip
        assert term in text, term
    theta, teacher = (model.model_copy(update={"max_model_len": 2048}) for model in (theta, teacher))
    plan = plan_memory(theta, teacher, EngineConfig(max_num_seqs=8), "cuda", memory=idle(48 * GIB))
    assert plan.total_bytes <= plan.limit_bytes


def test_memory_of_other_processes_is_not_planned(tmp_path: Path) -> None:
    theta, teacher = (
        dummy(tmp_path / name, shape, max_model_len=2048) for name, shape in (("theta", SMALL), ("teacher", LARGE))
    )
    engine = EngineConfig(max_num_seqs=256)
    alone = plan_memory(theta, teacher, engine, "cuda", memory=idle(80 * GIB))
    beside = plan_memory(theta, teacher, engine, "cuda", memory=DeviceMemory(80 * GIB, 60 * GIB))
    assert (alone.limit_bytes, beside.limit_bytes) == (72 * GIB, 54 * GIB)
    assert beside.total_bytes <= 54 * GIB < alone.total_bytes
    assert "of 54.0 GiB (90% of the 60.0 GiB that other processes leave of the GPU's 80.0 GiB)" in str(beside)
    with pytest.raises(CapacityError, match=r"of the 20\.0 GiB that other processes leave of .* end what else runs"):
        plan_memory(theta, teacher, engine, "cuda", memory=DeviceMemory(80 * GIB, 20 * GIB))
    small = DeviceMemory(80 * GIB, 79 * GIB)  # this process itself holds some: irrelevant while the share is free
    assert plan_memory(theta, teacher, engine, "cuda", memory=small) == alone


def test_a_cpu_is_limited_by_its_free_memory(tmp_path: Path) -> None:
    theta, teacher = dummy(tmp_path / "theta", SMALL), dummy(tmp_path / "teacher", LARGE)
    with pytest.raises(
        CapacityError, match=r"theta's weights 15\.0 GiB .*teacher's weights 55\.0 GiB.* 64\.0 GiB that"
    ):
        plan_memory(theta, teacher, EngineConfig(), "cpu", memory=idle(64 * GIB))


def test_caches_take_a_share_of_a_cpu_machine(tiny_pair: tuple[Path, Path]) -> None:
    teacher, theta = (ModelConfig(model=str(path)) for path in tiny_pair)
    engine = EngineConfig(max_num_seqs=4096)
    plan = plan_memory(theta, teacher, engine, "cpu", memory=idle(GIB))
    assert plan.theta_bytes + plan.teacher_bytes == pytest.approx(0.3 * GIB, rel=0.01)
    found = device_memory("cpu")
    assert found.total_bytes > found.free_bytes > 0


def test_a_configured_cache_size_is_kept_and_counted(tiny_pair: tuple[Path, Path]) -> None:
    teacher, theta = (ModelConfig(model=str(path), kv_cache_memory_bytes=77 << 20) for path in tiny_pair)
    plan = plan_memory(theta, teacher, ENGINE, "cpu", memory=idle(GIB))
    assert (plan.theta_bytes, plan.teacher_bytes) == (77 << 20, 77 << 20)
    assert "theta's KV cache 77.0 MiB" in str(plan)
    with pytest.raises(CapacityError, match=r"theta's KV cache 77\.0 MiB .* of 100\.0 MiB that are free"):
        plan_memory(theta, teacher, ENGINE, "cpu", memory=idle(100 << 20))
    alone = ModelConfig(model=theta.model)
    plan = plan_memory(alone, teacher, ENGINE, "cpu", memory=idle(GIB))  # the other cache is still planned
    assert plan.teacher_bytes == 77 << 20
    assert plan.models["theta"].num_rows == 4


def test_one_model_for_both_counts_once(tiny_pair: tuple[Path, Path]) -> None:
    model = ModelConfig(model=str(tiny_pair[0]), max_model_len=512)
    theta = model.model_copy(update={"max_model_len": 256})
    one = plan_memory(theta, model, ENGINE, "cuda", shared=True, memory=idle(10 * GIB))
    two = plan_memory(theta, model, ENGINE, "cuda", memory=idle(10 * GIB))
    assert (one.theta_bytes, one.teacher_bytes) == (two.theta_bytes, two.teacher_bytes)  # rows of both contexts
    of_prompts = activations_bytes(model, 256, "cuda")
    assert one.workspace["activations"] == 3 * of_prompts  # 256 + 512 tokens in one step
    assert two.workspace["activations"] == 2 * of_prompts  # in two steps, of which 512 is the wider
    assert two.total_bytes - one.total_bytes == loaded_bytes(model, "cuda") + GRAPHS_BYTES - of_prompts
    assert str(one).startswith("one model's weights")


def test_models_on_gpus_of_their_own_have_a_plan_each(tmp_path: Path) -> None:
    """Two halves of Qwen3-14B on two GPUs of 24 GiB, which could not hold it whole; the student on another one."""
    teacher = dummy(tmp_path / "teacher", LARGE, tensor_parallel_size=2, max_model_len=4096)
    theta = dummy(tmp_path / "theta", SMALL, max_model_len=4096)
    engine = EngineConfig(max_num_seqs=8)
    plan = plan_memory(None, teacher, engine, "cuda", memory=idle(24 * GIB))
    assert plan.models["teacher"].weights_bytes == loaded_bytes(teacher, "cuda") == pytest.approx(14.8e9, rel=0.01)
    assert plan.workspace == {
        "activations": activations_bytes(teacher, 8192, "cuda"),
        "logits": 2 * logits_bytes(teacher, 8, "cuda"),
        "mixing": mixing_bytes(8, 151936),
        "the other model's head": head_bytes(teacher, "cuda"),
        "CUDA graphs": GRAPHS_BYTES,
    }
    assert plan.total_bytes <= plan.limit_bytes
    assert plan_memory(theta, None, engine, "cuda", memory=idle(24 * GIB)).models["theta"].num_rows == 8
    whole = teacher.model_copy(update={"tensor_parallel_size": 1})
    with pytest.raises(CapacityError, match=r"^teacher cannot fit: teacher's weights 27\.5 GiB"):
        plan_memory(None, whole, engine, "cuda", memory=idle(24 * GIB))


def test_a_folder_without_weights_is_no_model(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copy(tiny_pair[0] / "config.json", tmp_path)
    with pytest.raises(ModelError, match=r"holds no \*\.safetensors, the one format that is loaded"):
        plan_memory(ModelConfig(model=str(tmp_path)), ModelConfig(model=str(tiny_pair[0])), ENGINE, "cpu")


def test_max_tokens_must_leave_room_for_a_prompt() -> None:
    check_max_tokens(99, 100)
    with pytest.raises(CapacityError, match="max_tokens 100 leaves no room for a prompt in a context of 100"):
        check_max_tokens(100, 100)
