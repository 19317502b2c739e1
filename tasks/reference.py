"""The final answer inside a reference solution."""

from __future__ import annotations


def after_hashes(solution: str) -> str | None:
    """What follows the last `####` (GSM8K), None without one."""
    _, found, final = solution.rpartition("####")
    return final.strip() or None if found else None


def last_boxed(solution: str) -> str | None:
    r"""What the last `\boxed{…}` (MATH) holds, inner braces kept; None without a closed one."""
    start = max(solution.rfind("\\boxed{"), solution.rfind("\\fbox{"))
    if start < 0:
        return None
    begin = solution.index("{", start) + 1
    depth = 1
    for end in range(begin, len(solution)):
        depth += {"{": 1, "}": -1}.get(solution[end], 0)
        if depth == 0:
            return solution[begin:end].strip() or None
    return None
