"""The rows of a user's file, read by its name's ending, as a stream. Memory holds a few of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from saemd.corpus.columns import arrow_rows, parquet_rows
from saemd.corpus.json_rows import json_rows
from saemd.corpus.opened import COMPRESSED, opened
from saemd.errors import bad_value

ENDINGS = (".txt", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow")
_COLUMNAR = (".parquet", ".arrow")  # compressed within
_NO_LINES = (".tar", ".csv", ".tsv", *_COLUMNAR)


def form_of(name: str) -> str | None:
    """How a file of this name is read, as one of `ENDINGS`; None for a file that is not read.

    >>> form_of("A.JSONL.gz"), form_of("RC_2020.zst"), form_of("notes.md"), form_of("a.csv.gz")
    ('.jsonl', '.jsonl', None, None)
    """
    inner, last = ["", "", *(suffix.lower() for suffix in Path(name).suffixes)][-2:]
    if last not in COMPRESSED:
        return last if last in ENDINGS else None
    if inner in ENDINGS and inner not in _COLUMNAR:
        return inner
    return ".jsonl" if last == ".zst" and inner not in _NO_LINES else None


def rows_of(file: Path, text_field: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """`(place, row)`: where a row is, for an error message, and a mapping with the text field if the row has it.

    Raises `UserError` for a row that cannot be read, and errors that `saemd.corpus.opened.readable` turns into one.
    """
    form = form_of(file.name)
    with open(file, "rb") as raw:
        if raw.read(40).startswith(b"version https://git-lfs.github.com/"):
            raise bad_value("corpus.path", file, "is a pointer of git-lfs; get its content with git lfs pull")
    if form == ".txt":
        return _txt(file, text_field)
    if form == ".parquet":
        return parquet_rows(file, text_field)
    if form == ".arrow":
        return arrow_rows(file, text_field)
    return json_rows(file)


def _txt(file: Path, text_field: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """One row, the whole file."""
    with opened(file) as stream:
        if content := TextIOWrapper(stream, encoding="utf-8-sig").read():
            yield "the text", {text_field: content.strip()}
