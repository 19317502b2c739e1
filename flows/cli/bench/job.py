"""One measurement: what a child process is told, what it hands back."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from sampling.config import DummyModel, EngineConfig, Frozen, ModelConfig, PresetName
from sampling.models.memory import MemoryPlan

Mode = Literal["teacher", "theta", "lockstep", "http"]
NUM_WAVES = 3  # measured; one more, the first, warms up


class Job(Frozen):
    """One mode at one number of rows: every row has a prompt of its own, all start at once, none ends early."""

    mode: Mode
    theta: ModelConfig  # with its context; for `http` with its URL
    teacher: ModelConfig
    dummy_weights: bool = False
    preset: PresetName = "balanced"  # of lockstep and HTTP
    engine: EngineConfig  # max_num_seqs is the rows
    num_ids: int = Field(ge=1, description="Ids that both models know, from 0 on.")
    prompt_tokens: int = Field(ge=1)
    max_tokens: int = Field(ge=1)

    @model_validator(mode="before")
    @classmethod
    def _without_weights(cls, values: dict[str, object]) -> dict[str, object]:
        """JSON does not tell a DummyModel from another."""
        if values.get("dummy_weights"):
            models = {name: DummyModel.model_validate(values[name]) for name in ("theta", "teacher")}
            return {**values, **models}
        return values

    def at(self, theta_url: str, teacher_url: str) -> Self:
        """The same with both models served."""
        theta = self.theta.model_copy(update={"url": theta_url})
        return self.model_copy(update={"theta": theta, "teacher": self.teacher.model_copy(update={"url": teacher_url})})

    @property
    def rows(self) -> int:
        """Rows in flight, which are all rows of a wave."""
        return self.engine.max_num_seqs


class Wave(Frozen):
    """All rows sampled once, prefill included."""

    elapsed_s: float
    num_tokens: int
    num_steps: int | None = None  # None: plain vLLM and the served models do not say
    theta_s: float | None = None  # in lockstep: wall time of that part; by HTTP: the waits of all rows, summed
    teacher_s: float | None = None
    mixing_s: float | None = None
    num_fallback: int | None = None
    num_requests: int | None = None  # sent to both servers

    @property
    def tokens_per_s(self) -> float:
        """Tokens drawn a second of wall time."""
        return self.num_tokens / self.elapsed_s


class Measured(Frozen):
    """What one child process found."""

    waves: tuple[Wave, ...]
    load_s: float
    peak_bytes: int  # memory of the GPU that torch held; on a CPU, of the process
    device: str  # in words
    memory: MemoryPlan | None = None  # of the pair; None where it is served

    @property
    def median(self) -> Wave:
        """The wave of median speed."""
        return sorted(self.waves, key=lambda wave: wave.tokens_per_s)[len(self.waves) // 2]

    @property
    def spread(self) -> float:
        """How much slower than the fastest wave the slowest was, as a share."""
        speeds = [wave.tokens_per_s for wave in self.waves]
        return 1 - min(speeds) / max(speeds)
