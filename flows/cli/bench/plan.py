"""The plan of a benchmark: its measurements, checked before a model is loaded."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from flows.demo.demo import MODELS
from sampling.config import DummyModel, EngineConfig, Frozen, ModelConfig, PresetName
from sampling.errors import CapacityError, ConfigurationError
from sampling.models.folder import weights_bytes
from sampling.models.memory import context_length
from sampling.models.vocabulary import check_vocabularies, load_tokenizer

Mode = Literal["teacher", "theta", "lockstep", "http"]
TEACHER, THETA = "teacher alone", "theta alone"
CONTEXT_STEP = 128  # tokens; the largest KV block that vLLM chooses by itself, so that no block is partly used


class Job(Frozen):
    """One measurement: one mode at one number of rows, which all start at once and end at `max_tokens`."""

    mode: Mode
    theta: ModelConfig  # with max_model_len; in mode http with its URL
    teacher: ModelConfig
    dummy_weights: bool = False
    preset: PresetName = "balanced"  # in modes lockstep and http
    engine: EngineConfig  # max_num_seqs is the number of rows
    num_ids: int = Field(ge=1, description="Ids that both models know, from 0 on.")
    prompt_tokens: int = Field(ge=1)
    max_tokens: int = Field(ge=1)

    @model_validator(mode="before")
    @classmethod
    def _without_weights(cls, values: dict[str, object]) -> dict[str, object]:
        """Make DummyModels again from JSON, which does not keep a model's class."""
        if values.get("dummy_weights"):
            return values | {name: DummyModel.model_validate(values[name]) for name in ("theta", "teacher")}
        return values

    def at(self, theta_url: str, teacher_url: str) -> Self:
        """Return the job with both models served at these addresses."""
        theta = self.theta.model_copy(update={"url": theta_url})
        return self.model_copy(update={"theta": theta, "teacher": self.teacher.model_copy(update={"url": teacher_url})})

    @property
    def rows(self) -> int:
        """Rows in flight, which are all rows of a wave."""
        return self.engine.max_num_seqs


def plan(args: argparse.Namespace) -> list[tuple[str, Job]]:
    """Return every measurement with its name in the table, those by HTTP last. Raise ConfigurationError."""
    if (args.teacher is None) != (args.theta is None):
        raise ConfigurationError("give both --teacher and --theta, or neither: the demo's two models")
    if (args.teacher_url is None) != (args.theta_url is None):
        raise ConfigurationError("give both --teacher-url and --theta-url, or neither")
    if args.dummy_weights and (args.http or args.theta_url):
        raise ConfigurationError("--dummy-weights has no tokenizer to hold a server's against; leave --http out")
    if not args.rows:
        raise ConfigurationError("--rows is empty; give at least one number of rows")
    try:
        models = _models(args)
        num_ids = check_vocabularies(*(load_tokenizer(model) for model in models.values()))
        jobs = [job for rows in dict.fromkeys(args.rows) for job in _jobs(args, rows, models, num_ids)]
        return sorted(jobs, key=lambda job: job[1].mode == "http")
    except ValidationError as error:
        detail = error.errors()[0]
        name = ".".join(str(part) for part in detail["loc"])
        value = f"{detail['input']!r} is not allowed: " if detail["type"] != "value_error" else ""
        raise ConfigurationError(f"{name}: {value}{detail['msg']}") from None


def _models(args: argparse.Namespace) -> dict[str, ModelConfig]:
    """Return theta and the teacher with a context that fits a row. Raise ModelError, CapacityError."""
    kind = DummyModel if args.dummy_weights else ModelConfig
    models = {}
    needed = args.prompt_tokens + args.max_tokens
    for name, given in (("theta", args.theta), ("teacher", args.teacher)):
        model = kind(model=given or str(MODELS / name), dtype=args.dtype)
        own = context_length(model)
        if needed > own:
            raise CapacityError(
                f"prompt_tokens {args.prompt_tokens} + max_tokens {args.max_tokens} exceed {name}'s context of {own}"
            )
        if model.has_weights and not weights_bytes(model):
            raise ConfigurationError(f"{model.model} holds no *.safetensors; measure its shapes with --dummy-weights")
        context = min(own, -(-needed // CONTEXT_STEP) * CONTEXT_STEP)
        models[name] = model.model_copy(update={"max_model_len": context})
    return models


def _jobs(
    args: argparse.Namespace, rows: int, models: dict[str, ModelConfig], num_ids: int
) -> Iterator[tuple[str, Job]]:
    engine = EngineConfig(
        max_num_seqs=rows, gpu_memory_utilization=args.gpu_memory_utilization, torch_compile=not args.no_compile
    )

    def job(mode: Mode, preset: Any = args.preset) -> Job:
        return Job(
            mode=mode,
            **models,
            dummy_weights=args.dummy_weights,
            preset=preset,
            engine=engine,
            num_ids=num_ids,
            prompt_tokens=args.prompt_tokens,
            max_tokens=args.max_tokens,
        )

    yield TEACHER, job("teacher")
    yield THETA, job("theta")
    for preset in dict.fromkeys((args.preset, "exploratory")):
        yield f"lockstep, {preset}", job("lockstep", preset)
    if args.http or args.theta_url:
        yield f"HTTP, {args.preset}", job("http")
