"""The totals of a sampler."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class SamplingStats:
    """What a sampler has done since it was made; seconds are wall time of the stepping thread."""

    num_requests: int = 0  # completions finished
    num_failed: int = 0  # rows that could not be sampled
    num_tokens: int = 0  # tokens drawn
    num_forced: int = 0  # of those, first tokens drawn from the teacher
    num_fallback: int = 0  # of those, drawn from the teacher because theta was too far away
    num_constrained: int = 0  # of those, at which the trust region took ids away
    num_stability_checks: int = 0  # of those, at which JS with overlap were held against the thresholds
    num_unstable: int = 0  # of those, beyond a threshold, whether or not they fell back
    num_named: int = 0  # tokens for which ids that one served model named were asked of the other one, too
    num_steps: int = 0
    max_kl_error: float = 0.0  # of mixed tokens under kl_symmetry, nats
    theta_s: float = 0.0
    teacher_s: float = 0.0
    mixing_s: float = 0.0
    total_s: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """The totals by name."""
        return {field: getattr(self, field) for field in self.__slots__}
