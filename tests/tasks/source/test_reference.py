"""The final answer inside a reference solution."""

from __future__ import annotations

import pytest

from tasks.source.reference import after_hashes, last_boxed


@pytest.mark.parametrize(
    ("solution", "final"),
    [("6*7=42\n#### 42", "42"), ("#### 1\n####  1,234 ", "1,234"), ("no mark", None), ("####", None), ("", None)],
)
def test_after_hashes(solution: str, final: str | None) -> None:
    assert after_hashes(solution) == final


@pytest.mark.parametrize(
    ("solution", "final"),
    [
        (r"so $\boxed{42}$.", "42"),
        (r"\boxed{1} then \boxed{\frac{1}{2}}, done", r"\frac{1}{2}"),
        (r"\fbox{x^{2}}", "x^{2}"),
        (r"\boxed{{a}{b}}", "{a}{b}"),
        (r"\boxed{open", None),
        (r"\boxed{}", None),
        ("no box", None),
    ],
)
def test_last_boxed(solution: str, final: str | None) -> None:
    assert last_boxed(solution) == final
