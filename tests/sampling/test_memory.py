"""The plan of both KV caches."""

from __future__ import annotations

from pathlib import Path

import pytest

from sampling import EngineConfig, ModelConfig
from sampling import memory as memory_module
from sampling.errors import CapacityError
from sampling.memory import MIN_CACHE_BYTES, check_max_tokens, kv_bytes_per_token, plan_memory


def test_bytes_a_token(tiny_pair: tuple[Path, Path]) -> None:
    """Keys with values of 2 layers, 1 head, 32 wide: 2·2·1·32 numbers."""
    model = ModelConfig(model=str(tiny_pair[0]))
    assert kv_bytes_per_token(model, "cpu") == 128 * 4
    assert kv_bytes_per_token(ModelConfig(model=model.model, dtype="bfloat16"), "cpu") == 128 * 2


def test_a_small_pair_gets_what_it_needs(tiny_pair: tuple[Path, Path]) -> None:
    theta, teacher = (ModelConfig(model=str(path), max_model_len=1000) for path in tiny_pair)
    plan = plan_memory(theta, teacher, EngineConfig(max_num_seqs=99), "cpu")
    assert plan.theta_bytes == plan.teacher_bytes == 512 * 1000 * 100
    assert plan_memory(theta, teacher, EngineConfig(max_num_seqs=1), "cpu").theta_bytes == MIN_CACHE_BYTES


def test_a_shortage_is_shared_by_bytes_a_token(tiny_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "_spare_bytes", lambda *_: 300 << 20)
    theta = ModelConfig(model=str(tiny_pair[0]), max_model_len=1000)
    teacher = ModelConfig(model=str(tiny_pair[1]), max_model_len=1000, dtype="bfloat16")
    plan = plan_memory(theta, teacher, EngineConfig(max_num_seqs=4000), "cpu")
    assert plan.theta_bytes == pytest.approx(2 * plan.teacher_bytes, rel=1e-6)
    assert plan.theta_bytes + plan.teacher_bytes == pytest.approx(300 << 20, rel=1e-6)


def test_an_own_size_wins(tiny_pair: tuple[Path, Path]) -> None:
    theta, teacher = (ModelConfig(model=str(path), kv_cache_memory_bytes=77 << 20) for path in tiny_pair)
    plan = plan_memory(theta, teacher, EngineConfig(), "cpu")
    assert (plan.theta_bytes, plan.teacher_bytes) == (77 << 20, 77 << 20)
    assert "0.08 GiB" in str(plan)


def test_max_tokens_must_leave_room_for_a_prompt() -> None:
    check_max_tokens(99, 100)
    with pytest.raises(CapacityError, match="max_tokens 100 leaves no room for a prompt in a context of 100"):
        check_max_tokens(100, 100)
