"""The counters of a sampler."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class SamplingStats:
    """Totals since the sampler was loaded; seconds are wall time of the stepping thread."""

    num_requests: int = 0  # finished completions
    num_failed: int = 0  # rows that could not be sampled
    num_tokens: int = 0  # drawn tokens
    num_forced: int = 0  # of those, first tokens drawn from the teacher
    num_fallback: int = 0  # of those, drawn from the teacher because theta was too far away
    num_constrained: int = 0  # of those, where the trust region removed ids
    num_stability_checks: int = 0  # of those, where JS and overlap were compared with the thresholds
    num_unstable: int = 0  # of those, beyond a threshold, whether or not they fell back
    num_named: int = 0  # tokens for which ids named by one served model were requested from the other
    num_steps: int = 0
    max_kl_error: float = 0.0  # of mixed tokens under kl_symmetry, nats
    theta_s: float = 0.0
    teacher_s: float = 0.0
    mixing_s: float = 0.0
    total_s: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """Return the totals by name."""
        return asdict(self)
