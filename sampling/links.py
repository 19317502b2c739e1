"""Symbolic links that strangers put into folders: what they lead to is not read."""

from __future__ import annotations

import os
from pathlib import Path


def outside(path: Path, folder: Path) -> Path | None:
    """Return where `path`, found in `folder`, leads to, if that is outside; None for what lies inside.

    `folder` itself may be a link: the user named it. In the Hub's cache, links of snapshots/ lead to blobs/.
    """
    real, root = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    blobs = [parent.parent / "blobs" for parent in root.parents if parent.name == "snapshots"]
    return None if real.is_relative_to(root) or real.parent in blobs else real
