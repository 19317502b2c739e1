"""The options of vLLM's `LLM`."""

from __future__ import annotations

from pathlib import Path

import pytest

from sampling import EngineConfig, ModelConfig
from sampling.models import vllm_options
from sampling.models.vllm_options import llm_options


@pytest.mark.parametrize(("device", "torch_compile", "expected"), [
    ("cpu", False, None),
    ("cuda", True, None),
    ("cuda", False, {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}),
])  # fmt: skip
def test_models_are_compiled_as_configured(
    tiny_pair: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    torch_compile: bool,
    expected: dict[str, object] | None,
) -> None:
    monkeypatch.setattr(vllm_options, "device_type", lambda: device)
    options = llm_options(ModelConfig(model=str(tiny_pair[0])), EngineConfig(torch_compile=torch_compile), 64, 1 << 20)
    assert options.get("compilation_config") == expected
    assert options["enforce_eager"] is (device == "cpu")
    if expected is not None:  # vLLM accepts these values
        from vllm.config import CompilationConfig

        assert CompilationConfig(**expected).cudagraph_mode.name == expected["cudagraph_mode"]  # type: ignore[arg-type]
