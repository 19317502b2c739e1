"""An engine's process whose sampler raises the error that the environment names."""

from __future__ import annotations

import errno
import os
from multiprocessing.connection import Connection

import sampling
from sampling.errors import ModelError
from tasks.worker import engine_child

ERRORS = {
    "own": ModelError("there is no model"),
    "foreign": ValueError("no such thing\nat all"),
    "disk": OSError(errno.ENOSPC, "No space left on device"),
}


def serve(connection: Connection) -> None:
    """Serve as the engine does, with a sampler that cannot be made."""

    def broken(**_: object) -> None:
        raise ERRORS[os.environ["BROKEN"]]

    sampling.DualSampler = broken  # type: ignore[misc, assignment]
    engine_child.serve(connection)
