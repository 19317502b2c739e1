"""A reader of JSON text that holds one value at a time."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any, TextIO

from sampling.bounds import Bounds
from sampling.errors import SourceError
from tasks.source.source_row import VALUE_BYTES, value_bytes

CHUNK_CHARS = 1 << 20
MAX_TOKENS = 1_000_000
WRAPPERS = ("data", "rows", "train", "examples", "instances", "items")  # {"data": [row, …]}
SMALL_CHARS = 1 << 21  # a text this short is parsed unseen: its values take 64 MB at most
_TOKENS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},]', re.DOTALL)
_CLOSERS = {"]": -1, "}": -1, "[": 1, "{": 1}
_SPACE = re.compile(r"\s*")
_COMMA = re.compile(r"\s*,\s*(?=\{)")
_OBJECTS = re.compile(r"\[\s*\{")  # the start of a list of objects


class _RepeatedKeyError(ValueError):
    """An object with two values of one name: readers differ in which they keep."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        repeated = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise _RepeatedKeyError(f"an object names a key twice: {repeated!r:.100}")
    return fields


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


class BadValue(ValueError):
    """A value that is too large, nests too deep or repeats a key; `end` is where it ends, None if that is not known."""

    def __init__(self, reason: str, problem: str, end: int | None) -> None:
        super().__init__(problem)
        self.reason, self.end = reason, end


def parse(text: str, bounds: Bounds, begin: int = 0) -> tuple[Any, int]:
    """Return the JSON value at `begin`, and where it ends.

    Raises BadValue before a text is parsed that would take more memory than a row may, if it nests too deep, or repeats
    a key; ValueError if it is not JSON, or not whole.
    """
    if len(text) - begin > SMALL_CHARS:
        _check(text, begin, bounds)
    try:
        return _DECODER.raw_decode(text, begin)
    except _RepeatedKeyError as error:
        raise BadValue("repeated_key", str(error), _extent(text, begin)) from None
    except RecursionError:
        raise BadValue("too_deep", "it nests too many lists or objects (recursion)", _extent(text, begin)) from None


def _check(text: str, begin: int, bounds: Bounds) -> None:
    """Raise BadValue if the value at `begin` has more inner values than `bounds.row_bytes` allows."""
    most = bounds.row_bytes // VALUE_BYTES
    depth = count = 0
    for token in _TOKENS.finditer(text, begin):
        depth += _CLOSERS.get(token[0], 0)
        count += token[0] in ",[{"
        if depth <= 0 or token[0] == '"':
            return
        if count > most:
            problem = f"its values take more than bounds.row_bytes ({bounds.row_bytes}), {VALUE_BYTES} bytes each"
            raise BadValue("too_large", problem, _extent(text, begin))


def _extent(text: str, begin: int) -> int | None:
    """Return where the list or object at `begin` ends, None if `text` ends before, or that takes over 0.5 s."""
    depth = 0
    for token in islice(_TOKENS.finditer(text, begin), MAX_TOKENS):
        depth += _CLOSERS.get(token[0], 0)
        if token[0] == '"':  # a string without an end
            return None
        if depth <= 0:
            return token.end()
    return None


class JsonText:
    """The JSON values of a file, pulled one after the other."""

    def __init__(self, file: TextIO, name: str, bounds: Bounds) -> None:
        self._file, self._name, self._bounds = file, name, bounds
        self._buffer, self._position, self._is_whole = "", 0, False
        self._line = 1  # of the buffer's first character

    @property
    def line(self) -> int:
        """The number of the line that is read next."""
        return self._line + self._buffer.count("\n", 0, self._position)

    def peek(self) -> str:
        """Return the next character that is no white space, "" at the end."""
        while True:
            if (character := self._buffer[self._position : self._position + 1]) and not character.isspace():
                return character
            if match := _SPACE.match(self._buffer, self._position):
                self._position = match.end()
            if self._position == len(self._buffer) and not self._fill():
                return ""

    def skip(self, character: str) -> bool:
        """Go behind `character` if it is next."""
        if self.peek() != character:
            return False
        self._position += 1
        return True

    def expect(self, *characters: str) -> str:
        """Go behind the next character, which must be one of these. Raises SourceError."""
        if (found := self.peek()) not in characters or not found:
            raise self.error(f"{' or '.join(characters)} is missing")
        self._position += 1
        return found

    def value(self) -> Any:
        """Return the next value, a `BadValue` in place of one that is refused. Raises SourceError if there is none.

        A value of unknown end (`bounds.line_bytes` do not hold it) is a SourceError as well.
        """
        if self.peek() == "{" and len(self._buffer) - self._position <= SMALL_CHARS:  # fast: most rows
            try:
                value, self._position = _DECODER.raw_decode(self._buffer, self._position)
                return value
            except (ValueError, RecursionError):
                pass
        while True:
            try:
                value, end = parse(self._buffer, self._bounds, self._position)
            except BadValue as oversize:
                if oversize.end is not None:
                    self._position = oversize.end
                    return oversize
                problem = str(oversize)
            except ValueError as error:
                problem = str(error).split(": line ", 1)[0]  # the line in the buffer
            else:
                behind = self._buffer[end : end + 1]  # of a number, it may be cut: 1 of 1.5, or of 1e5
                if self._is_whole or (behind and not (isinstance(value, int | float) and behind in ".eE")):
                    self._position = end
                    return value
                problem = "no comma behind it"
            if self._is_whole:
                raise self.error(problem)
            if len(self._buffer) - self._position > self._bounds.line_bytes:
                raise self.too_long("a value", problem)
            self._fill()

    def items(self) -> Iterator[Any]:
        """Yield the elements of the list that is next; `value` says what they are."""
        self.expect("[")
        if self.skip("]"):
            return
        while True:
            yield self.value()
            if comma := _COMMA.match(self._buffer, self._position):  # fast, as above
                self._position = comma.end()
            elif self.expect(",", "]") == "]":
                return

    def rows(self) -> Iterator[Any]:
        """Yield the rows of all documents, one after the other: lists of rows, objects that hold one, rows."""
        while start := self.peek():
            if start == "[":
                yield from self.items()
            elif start == "{":
                yield from self._object_rows()
            else:
                yield self.value()

    def _object_rows(self) -> Iterator[Any]:
        """Yield the rows of {"data": [row, …]} or {"key": row, …}, else the object itself as the only row."""
        members: dict[str, Any] = {}
        size, found = 0, None
        self.expect("{")
        while not self.skip("}"):
            if members or found:
                self.expect(",")
            if self.peek() != '"':
                raise self.error("a key is missing")
            key = str(self.value())
            self.expect(":")
            if self._is_list_of_objects() and (found or key in WRAPPERS):
                if found:
                    raise self.error(f"the object holds two lists of rows, {found!r} and {key!r}; make each a file")
                found = key
                yield from self.items()
                continue
            if key in members:
                raise self.error(f"an object names a key twice: {key!r:.100}")
            members[key] = self.value()
            if (size := size + len(key) + value_bytes(members[key])) > self._bounds.line_bytes:
                raise self.too_long("an object", f"no list of rows before is named {', '.join(WRAPPERS)}")
        if not found:
            is_keyed = bool(members) and all(isinstance(row, dict) for row in members.values())
            yield from members.values() if is_keyed else [members]

    def _is_list_of_objects(self) -> bool:
        self.peek()
        if len(self._buffer) - self._position < CHUNK_CHARS:
            self._fill()
        return _OBJECTS.match(self._buffer, self._position) is not None

    def error(self, problem: str) -> SourceError:
        """Return the error of a text that cannot be read further."""
        return SourceError(
            f"{self._name}, line {self.line}: this is not JSON, or the file is cut off: {problem}; "
            "repair it, or convert it to .jsonl, where a broken row is set aside alone"
        )

    def too_long(self, what: str, problem: str) -> SourceError:
        """Return the error of a value that is not read to its end."""
        bound = f"bounds.line_bytes ({self._bounds.line_bytes})"
        return SourceError(
            f"{self._name}, line {self.line}: {what} is longer than {bound}: {problem}; repair it, convert the file to "
            ".jsonl, where such a row is set aside alone, or raise the bound"
        )

    def _fill(self) -> bool:
        """Read on, forgetting what is behind; doubling parses a value log2(size) times instead of once a chunk."""
        self._line = self.line
        pending = self._buffer[self._position :]
        self._buffer, self._position = "", 0  # freed: a character may take four bytes, and three copies are too many
        more = self._file.read(max(CHUNK_CHARS, min(len(pending), self._bounds.line_bytes - len(pending))))
        self._buffer = pending + more
        self._is_whole = not more
        return bool(more)
