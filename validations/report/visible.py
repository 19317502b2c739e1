"""Escaping of invisible characters."""

from __future__ import annotations

MAX_TEXT_CHARACTERS = 2000  # where a page sets no lower limit


def visible(text: str, max_characters: int = MAX_TEXT_CHARACTERS) -> str:
    """Return `text` with invisible characters as escapes (`\\x00`, `\\u202e`), cut to `max_characters`."""
    escaped = "".join(
        char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text[: max_characters + 1]
    )
    return escaped if len(escaped) <= max_characters else f"{escaped[:max_characters]}…"
