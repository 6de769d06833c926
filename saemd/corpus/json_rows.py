"""The rows of JSON files: lines, one array, or objects over several lines. Every row is an object.

Values other than the text are parsed and dropped, so their types may differ from row to row.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import Any

from saemd.corpus.opened import opened
from saemd.errors import UserError, bad_value

_BUFFER_CHARACTERS = 1 << 20
_decode = json.JSONDecoder(parse_int=float)  # Python refuses an int of 5,000 digits, even in a column that nobody reads
_SPACE = re.compile(r"[ \t\r\n]*")

Rows = Iterator[tuple[str, dict[str, Any]]]


def json_rows(file: Path) -> Rows:
    """`(place, row)`, where a place is `line 3` in JSON lines and else `row 3`. Memory holds one row.

    A first bracket means an array, and a first line that ends within an object means objects over several lines.
    """
    with opened(file) as stream:
        is_array = stream.peek(1).removeprefix(BOM_UTF8).lstrip().startswith(b"[")
        spans_lines = is_array or (_ends_within_object(_first_line(stream)) and bool(_first_line(stream)))
    with opened(file) as stream:
        yield from _json_values(file, stream) if spans_lines else _json_lines(file, stream)


def _first_line(stream: Iterable[bytes]) -> str:
    """The next line that is not blank; empty at the end."""
    line = next(filter(bytes.strip, stream), b"")
    return line.decode("utf-8", "replace").removeprefix("\ufeff").rstrip()


def _ends_within_object(line: str) -> bool:
    try:
        _decode.decode(line)
    except json.JSONDecodeError as error:
        return line.startswith("{") and error.pos >= len(line)
    except RecursionError:
        return False
    return False


def _json_lines(file: Path, lines: Iterable[bytes]) -> Rows:
    for n, line in enumerate(lines, start=1):
        try:
            text = line.decode("utf-8").removeprefix("\ufeff")
            if text.isspace() or not text:
                continue
            row = _object(_decode.decode(text))
        except (ValueError, RecursionError) as error:
            column = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            raise _bad_row(file, f"line {n}", error, column) from error
        yield f"line {n}", row


def _json_values(file: Path, stream: BufferedReader[Any]) -> Rows:
    """The objects of one array, or objects one after another. Memory holds one of them."""
    values = _Values(stream)
    n = 0
    try:
        in_array = values.skip("[")
        while not (values.skip("]") if in_array else values.at_end()):
            n += 1
            if in_array and n > 1:
                values.expect(",")
            yield f"row {n}", _object(values.take())
        if not values.at_end():
            raise ValueError("is followed by more than its array; an array is a whole file")
    except UnicodeDecodeError as error:  # in what was read ahead
        raise _bad_row(file, f"row {n} or one after it", error) from error
    except (ValueError, RecursionError) as error:
        raise _bad_row(file, f"row {n}", error) from error


class _Values:
    """JSON values, and the signs between them, one after another from a stream."""

    def __init__(self, stream: BufferedReader[Any]) -> None:
        self._stream = TextIOWrapper(stream, encoding="utf-8-sig")
        self._buffer, self._at = "", 0

    def at_end(self) -> bool:
        """Whether nothing but white space follows."""
        return not self._next()

    def skip(self, sign: str) -> bool:
        """Skip `sign` if it is next, and return whether it was."""
        is_next = self._next() == sign
        self._at += is_next
        return is_next

    def expect(self, sign: str) -> None:
        if not self.skip(sign):
            raise json.JSONDecodeError(f"Expecting '{sign}'", self._buffer, self._at)

    def take(self) -> object:
        """The next value. Raises `JSONDecodeError` where there is none."""
        self._next()
        while True:
            try:
                value, self._at = _decode.raw_decode(self._buffer, self._at)
                return value
            except json.JSONDecodeError as error:
                may_go_on = error.msg.startswith("Unterminated") or error.pos > len(self._buffer) - 16
                if not may_go_on or not self._fill():
                    raise

    def _next(self) -> str:
        while True:
            self._at = _SPACE.match(self._buffer, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._fill():
                return ""

    def _fill(self) -> bool:
        """Double the unread text, so that a long value is parsed only a few times. False at the end of the stream."""
        more = self._stream.read(max(_BUFFER_CHARACTERS, len(self._buffer) - self._at))
        self._buffer, self._at = self._buffer[self._at :] + more, 0
        return bool(more)


def _object(row: object) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"is {describe(row)}; each row must be an object with a text")
    return row


def _bad_row(file: Path, place: str, error: ValueError | RecursionError, column: str = "") -> UserError:
    match error:
        case json.JSONDecodeError():
            reason = f"is not JSON ({error.msg}{column})"
        case RecursionError():
            reason = "is not JSON (nested too deep)"
        case UnicodeDecodeError():
            reason = f"is not UTF-8 (byte {error.object[error.start]:#04x}); convert the file"
        case _:
            reason = str(error)
    return bad_value("corpus.path", file, f"{place} {reason}")


def describe(value: object) -> str:
    """A JSON value's type, for an error message.

    >>> describe(None), describe(3.0), describe([])
    ('null', 'a number', 'a list')
    """
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    names = {str: "a string", list: "a list", dict: "an object", float: "a number", int: "a number"}
    return names.get(type(value), f"a {type(value).__name__}")
