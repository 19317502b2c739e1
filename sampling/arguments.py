"""Validation of the sampler's arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sampling.config import ModelConfig
from sampling.errors import ConfigurationError
from sampling.prompts.dual_prompt import DualPrompt

Backend = Literal["lockstep", "http"]


def model_of(name: str, model: str | ModelConfig | None, url: str | Sequence[str] | None) -> ModelConfig:
    """Return a model's configuration, given by name, by configuration, or by URL alone. Raises ConfigurationError."""
    urls = () if url is None else (url,) if isinstance(url, str) else tuple(url)
    if model is None and not urls:
        raise ConfigurationError(f"no {name}: give a folder, a Hub id, or {name}_url")
    config = model if isinstance(model, ModelConfig) else ModelConfig(model=model or "")
    if urls and config.lora is not None:
        raise ConfigurationError(
            f"{name}_url beside lora {config.lora!r}: a server applies its own adapters; leave one out"
        )
    if urls and (config.devices is not None or config.tensor_parallel_size > 1):
        raise ConfigurationError(
            f"{name}_url beside devices or tensor_parallel_size: a server is split where it starts"
        )
    return config.model_copy(update={"url": urls}) if urls else config


def backend_of(models: tuple[ModelConfig, ModelConfig], wanted: Backend | None) -> Backend:
    """Return "http" if both models have a URL. Raises ConfigurationError if only one has, or `wanted` differs."""
    served = [bool(model.urls) for model in models]
    found: Backend = "http" if all(served) else "lockstep"
    if any(served) != all(served) or wanted not in (None, found):
        theta, teacher = ("a URL" if has else "no URL" for has in served)
        raise ConfigurationError(
            f"backend {wanted or 'http'}: theta has {theta}, the teacher {teacher}; give both a URL (http), or none"
        )
    return found


def dual_prompts(
    prompts: Sequence[DualPrompt] | Sequence[str], theta_prompts: Sequence[str] | None
) -> list[DualPrompt]:
    """Return the prompts of `DualSampler.generate` as pairs. Raises ConfigurationError."""
    for name, given in (("prompts", prompts), ("theta_prompts", theta_prompts)):
        if isinstance(given, str | DualPrompt):  # a str is a sequence, too
            raise ConfigurationError(f"{name} is one prompt, where a list of them is needed: give [prompt]")
    if theta_prompts is not None and len(theta_prompts) != len(prompts):
        raise ConfigurationError(f"{len(prompts)} prompts, {len(theta_prompts)} theta_prompts: give one for each")
    thetas = prompts if theta_prompts is None else theta_prompts
    rows: list[DualPrompt] = []
    for index, (prompt, theta) in enumerate(zip(prompts, thetas, strict=True)):
        if isinstance(prompt, DualPrompt):
            if theta_prompts is not None:
                raise ConfigurationError("theta_prompts go with plain texts; a DualPrompt holds its own")
            rows.append(prompt)
        else:
            assert isinstance(prompt, str)
            assert isinstance(theta, str)
            rows.append(DualPrompt(teacher=prompt, theta=theta, id=str(index)))
    for row in rows:
        _check(row, "teacher", row.teacher)
        _check(row, "theta", row.theta)
    return rows


def _check(row: DualPrompt, name: str, prompt: object) -> None:
    """Raise ConfigurationError for a prompt that a tokenizer would reject without naming the row."""
    if prompt is None:
        raise ConfigurationError(f"row {row.id}: no {name} prompt; give a text, or token ids")
    if isinstance(prompt, str):
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            half = f"U+{ord(prompt[error.start]):04X}"
            raise ConfigurationError(
                f"row {row.id}: the {name} prompt holds {half} at {error.start}, half of a character; leave it out"
            ) from None
