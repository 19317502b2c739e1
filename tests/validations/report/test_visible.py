"""Escapes of invisible characters."""

from __future__ import annotations

import pytest

from validations.report.visible import visible

UNSEEN = [
    ("a\x00b", r"a\x00b"), ("\u202eevil\u202c", r"\u202eevil\u202c"), ("\ud800", r"\ud800"), ("\x1b[31m", r"\x1b[31m"),
    ("é 漢 π\n", "é 漢 π\n"), ("\u200b", r"\u200b"), ("x" * 3000, "x" * 2000 + "…"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "shown"), UNSEEN)
def test_what_cannot_be_seen_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_a_text_is_cut_where_asked() -> None:
    assert (visible("abc", 3), visible("abcd", 3), visible("\x00bcd", 4)) == ("abc", "abc…", "\\x00…")
