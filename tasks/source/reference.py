"""The final answer inside a reference solution."""

from __future__ import annotations

from validations.measure import answers


def after_hashes(solution: str) -> str | None:
    """What follows the last `####` (GSM8K), None without one."""
    _, found, final = solution.rpartition("####")
    return final.strip() or None if found else None


def last_boxed(solution: str) -> str | None:
    r"""What the last `\boxed{…}` (MATH) holds, inner braces kept; None without a closed one."""
    found = answers.last_boxed(solution)
    return solution[slice(*found)].strip() or None if found else None
