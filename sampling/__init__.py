"""The sampling library: every token is drawn from a mixture of two language models that vLLM runs in lockstep.

Configurations and results are imported eagerly; `DualSampler` needs torch, transformers and vLLM, so it is imported on
first access.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sampling.config import EngineConfig, MixtureConfig, ModelConfig, SamplingConfig
from sampling.errors import DualSamplingError
from sampling.prompts.dual_prompt import DualPrompt
from sampling.results import DrawnToken, DualOutput, FailedRow, TokenDiagnostics

if TYPE_CHECKING:
    from sampling.sampler import DualSampler

__all__ = [
    "DrawnToken",
    "DualOutput",
    "DualPrompt",
    "DualSampler",
    "DualSamplingError",
    "EngineConfig",
    "FailedRow",
    "MixtureConfig",
    "ModelConfig",
    "SamplingConfig",
    "TokenDiagnostics",
]


def __getattr__(name: str) -> Any:
    if name == "DualSampler":
        from sampling.sampler import DualSampler

        return DualSampler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
