"""Text of which every character can be seen."""

from __future__ import annotations

MAX_TEXT_CHARACTERS = 2000  # where a page sets no lower limit


def visible(text: str, max_characters: int = MAX_TEXT_CHARACTERS) -> str:
    """`text` with what cannot be seen written as an escape (`\\x00`, `\\u202e`), cut to `max_characters`."""
    shown = "".join(
        char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text[: max_characters + 1]
    )
    return shown if len(shown) <= max_characters else f"{shown[:max_characters]}…"
