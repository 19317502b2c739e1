"""An incremental parser of a JSON list."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO, cast

from sampling.errors import SourceError

CHUNK_CHARS = 1 << 20
MAX_ITEM_CHARS = 1 << 26  # without it, one broken element would read the rest of a file of GBs
_BETWEEN_ITEMS = re.compile(r"[\s,]*")
_ENDS = re.compile(r"\s*[,\]]")


def list_items(file: TextIO, name: str) -> Iterator[Any]:
    """Yield the elements of the list in `file`, holding one chunk in memory.

    Raises SourceError, naming the file and the element, where the text is not JSON.
    """
    decoder = json.JSONDecoder()
    buffer = file.read(CHUNK_CHARS)
    position = buffer.index("[") + 1
    number = 0
    while True:
        number += 1
        while True:  # until the buffer holds the whole element and its delimiter
            begin = cast(re.Match[str], _BETWEEN_ITEMS.match(buffer, position)).end()
            if buffer.startswith("]", begin):
                return
            try:
                value, end = decoder.raw_decode(buffer, begin)
                if _ENDS.match(buffer, end):
                    break
                problem = "no comma behind it"  # or a cut number: the chunk may end after the 1 of 1.5
            except (ValueError, RecursionError) as error:
                problem = str(error)
            pending = buffer[begin:]
            # Doubling the buffer parses an element log2(size) times instead of once per chunk.
            more = file.read(max(CHUNK_CHARS, len(pending))) if len(pending) < MAX_ITEM_CHARS else ""
            if not more:
                raise SourceError(
                    f"{name}: element {number} of the list is not JSON, or the file is cut off: {problem}; "
                    "repair it, or convert it to .jsonl, where a broken row is set aside alone"
                )
            buffer, position = pending + more, 0
        yield value
        position = end
