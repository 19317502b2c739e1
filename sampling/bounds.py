"""Bounds on what rows, files, templates and servers of strangers may take of the machine.

One table with the defaults; SECURITY.md shows it, and a message that refuses something names its key.
"""

from __future__ import annotations

from pydantic import Field

from sampling.config import Frozen

MIB = 1 << 20


class Bounds(Frozen):
    """The largest cell, row, set of columns, line, batch, prompt, rendering and answer; the longest rendering.

    A row beyond a bound is quarantined; a file, template, configuration or server beyond one is refused.
    """

    cell_bytes: int = Field(16 * MIB, ge=1, description="Longest value of one field, bytes of UTF-8.")
    row_bytes: int = Field(32 * MIB, ge=1, description="Largest row, all of its fields, bytes.")
    columns: int = Field(1000, ge=1, description="Most columns of a source, all of its rows together.")
    line_bytes: int = Field(32 * MIB, ge=1, description="Longest line or list element of a text file, bytes.")
    batch_bytes: int = Field(128 * MIB, ge=1, description="Largest batch of rows decoded at once, bytes.")
    unpacked_bytes: int = Field(
        4096 * MIB, ge=1, description="Largest compressed, Parquet or Arrow file once unpacked, bytes; 64 for each row."
    )
    unpacked_ratio: int = Field(1000, ge=1, description="Most unpacked bytes for each byte of a file, above 64 MiB.")
    prompt_chars: int = Field(4_000_000, ge=1, description="Longest rendered prompt, characters; a million tokens.")
    render_s: float = Field(2.0, gt=0.0, description="Longest rendering of one row's prompts, seconds of CPU.")
    render_bytes: int = Field(512 * MIB, ge=64 * MIB, description="Memory of the process that renders, bytes.")
    reply_bytes: int = Field(64 * MIB, ge=1, description="Largest reply of a model's server, bytes.")


# Of a configuration, which is read before its own bounds are known.
CONFIG_BYTES = 4 * MIB
CONFIG_NODES = 100_000  # keys and values, each alias counted as what it stands for
