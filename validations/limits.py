"""Limits of the gate's checks, the `validation` section of a configuration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Rule = Literal["refuse", "warn", "off"]

# Defaults that differ by the mixture's preset; `balanced` uses the defaults of the fields.
LIMIT_PRESETS: dict[str, dict[str, Any]] = {
    "conservative": {
        "fallback_rate_max": 0.3,
        "fallback_rate_at_position_max": 0.6,
        "eos_rate_min": 0.8,
        "length_rate_max": 0.1,
        "empty_rate_max": 0.0,
        "loop_rate_max": 0.01,
        "duplicate_rate_max": 0.01,
        "garbled_rate_max": 0.001,
        "stray_rate_max": 0.01,
        "privilege_rate_max": 0.001,
        "copy_rate_max": 0.01,
        "gap_rate_max": 0.1,
        "quarantine_rate_max": 0.001,
    },
    "balanced": {},
    "exploratory": {
        "fallback_rate_at_position_max": 1.0,
        "eos_rate_min": 0.2,
        "length_rate_max": 0.6,
        "empty_rate_max": 0.05,
        "loop_rate_max": 0.2,
        "duplicate_rate_max": 0.2,
        "garbled_rate_max": 0.05,
        "stray_rate_max": 0.2,
        "privilege_rate_max": 0.05,
        "copy_rate_max": 0.2,
        "gap_rate_max": 1.0,
        "quarantine_rate_max": 0.1,
    },
}


class Limits(BaseModel):
    """Limit of each check; rates are shares of completions unless stated otherwise."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    kl_error_max: float = Field(1e-6, ge=0.0, description="Largest |KL(q*‖π_θ) − KL(q*‖π_t)| of a mixed token, nats.")
    fallback_rate_max: float = Field(0.5, ge=0.0, le=1.0, description="Largest share of fallback tokens.")
    fallback_rate_at_position_max: float = Field(
        0.9, ge=0.0, le=1.0, description="The same at any position that 100 tokens stand at."
    )
    eos_rate_min: float = Field(0.5, ge=0.0, le=1.0, description="Smallest share of completions ended by EOS or stop.")
    length_rate_max: float = Field(0.3, ge=0.0, le=1.0, description="Largest share cut at max_tokens.")
    empty_rate_max: float = Field(0.01, ge=0.0, le=1.0, description="Largest share without text.")
    loop_rate_max: float = Field(0.05, ge=0.0, le=1.0, description="Largest share that repeats itself.")
    duplicate_rate_max: float = Field(
        0.05, ge=0.0, le=1.0, description="Largest share whose prompt and text are another completion's too."
    )
    garbled_rate_max: float = Field(0.01, ge=0.0, le=1.0, description="Largest share with broken characters.")
    stray_rate_max: float = Field(0.05, ge=0.0, le=1.0, description="Largest share that leaves the prompt's script.")
    privilege_rate_max: float = Field(
        0.01, ge=0.0, le=1.0, description="Largest share that speaks of a hint, a reference, a given answer."
    )
    privilege_phrases: tuple[Annotated[str, Field(min_length=2, max_length=200)], ...] | None = Field(
        None, max_length=500, description="What counts as that; null: validations/text/guidance.py's, in 10 languages."
    )
    copy_rate_max: float = Field(
        0.05, ge=0.0, le=1.0, description="Largest share with 16 words in a row of the reference, not of the question."
    )
    uncertainty_rate_min: float = Field(
        0.0, ge=0.0, le=1.0, description="Fewest markers of uncertainty (wait, maybe, let me check) a token."
    )
    gap_rate_max: float = Field(
        0.25, ge=0.0, le=1.0, description="Largest share of mixed tokens with log π_t − log π_θ above 5 nats."
    )
    correct_rate_min: float = Field(
        0.0, ge=0.0, le=1.0, description="Smallest share whose final answer is the source's, where it has one."
    )
    quarantine_rate_max: float = Field(
        0.01, ge=0.0, le=1.0, description="Largest share of completions that were quarantined, or their rows were."
    )
    leak_rate_max: float = Field(
        0.0, ge=0.0, le=1.0, description="Largest share of rows whose reference stands in theta's prompt."
    )
    question_rate_min: float = Field(
        1.0, ge=0.0, le=1.0, description="Smallest share of rows whose question stands in both prompts."
    )
    reference_rate_min: float = Field(
        1.0, ge=0.0, le=1.0, description="Smallest share whose teacher saw the reference, where its template names it."
    )
    severity: dict[str, Rule] = Field(
        default_factory=dict,
        description="Checks that refuse, warn or are off, against their default: {stray_rate: off}.",
    )
    probe_rows: int | None = Field(
        64, ge=1, description="Completions after which a hopeless run is stopped (all fallback, no EOS); null: never."
    )

    @field_validator("privilege_phrases", mode="before")
    @classmethod
    def _a_list_is_a_tuple(cls, phrases: Any) -> Any:
        """JSON and YAML have no tuples."""
        return tuple(phrases) if isinstance(phrases, list) else phrases

    @field_validator("severity", mode="before")
    @classmethod
    def _off_is_a_word(cls, rules: Any) -> Any:
        """YAML reads `off` as false."""
        if not isinstance(rules, dict):
            return rules
        return {name: "off" if rule is False else rule for name, rule in rules.items()}
