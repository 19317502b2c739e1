"""A check of file names that come from elsewhere: a store's keys, `latest`, a manifest."""

from __future__ import annotations

from sampling.errors import OutputError


def check_name(name: str, origin: str) -> str:
    """Return a relative file name that stays below its folder.

    Raises OutputError for a name with `..`, `.`, an empty part, a leading `/` or a character that cannot be printed:
    written to a local folder, it could leave that folder, or be shown as another name. `origin` names its source.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or not name.isprintable():
        raise OutputError(
            f"{origin} holds the name {ascii(name)[:200]}, which would leave its folder; nothing of it was read."
            " Remove that entry, or ask who wrote it"
        )
    return name
