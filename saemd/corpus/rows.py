"""The rows of a user's file, read by its name's ending, as a stream. Memory holds a few of them."""

from collections.abc import Iterable, Iterator, Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from saemd.corpus.json_rows import json_rows
from saemd.corpus.opened import COMPRESSED, opened
from saemd.errors import bad_value

ENDINGS = (".txt", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow")
_COLUMNAR = (".parquet", ".arrow")  # compressed within
_NO_LINES = (".tar", ".csv", ".tsv", *_COLUMNAR)
_BATCH_ROWS = 256
_BUFFER_BYTES = 1 << 20
_ARROW_END = b"\xff\xff\xff\xff\0\0\0\0"

Rows = Iterator[tuple[str, Mapping[str, Any]]]  # (place, row)


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


def rows_of(file: Path, text_field: str) -> Rows:
    """`(place, row)`: where a row is, for an error message, and a mapping with the text field if the row has it.

    Raises `UserError` for a row that cannot be read, and errors that `saemd.corpus.opened.readable` turns into one.
    """
    form = form_of(file.name)
    with open(file, "rb") as raw:
        if raw.read(40).startswith(b"version https://git-lfs.github.com/"):
            raise bad_value("corpus.path", file, "is a pointer of git-lfs; get its content with git lfs pull")
    readers = {".txt": _txt, ".parquet": parquet_rows, ".arrow": arrow_rows}
    return readers[form](file, text_field) if form in readers else json_rows(file)


def _txt(file: Path, text_field: str) -> Rows:
    """One row, the whole file."""
    with opened(file) as stream:
        if content := TextIOWrapper(stream, encoding="utf-8-sig").read():
            yield "the text", {text_field: content.strip()}


def parquet_rows(file: Path, text_field: str) -> Rows:
    """`(row 3, {text_field: text})` for every row. No other column is read; without it a row is {others: None}."""
    little_memory = {"buffer_size": _BUFFER_BYTES, "pre_buffer": False}  # else it holds a whole row group's column
    with open(file, "rb") as raw, pq.ParquetFile(raw, **little_memory) as parquet:
        batches = parquet.iter_batches(_BATCH_ROWS, columns=[text_field], use_threads=False)
        yield from _rows(file, text_field, parquet.schema_arrow, batches)


def arrow_rows(file: Path, text_field: str) -> Rows:
    """The same for a stream of record batches, which `save_to_disk` of datasets writes."""
    with pa.memory_map(str(file)) as raw:
        if raw.read(6) == b"ARROW1":
            raise bad_value("corpus.path", file, "is an Arrow file, not a stream as save_to_disk writes; use parquet")
        raw.seek(max(0, raw.size() - len(_ARROW_END)))
        if raw.read() != _ARROW_END:
            raise EOFError("the end of an Arrow stream is missing")
        raw.seek(0)
        with pa.ipc.open_stream(raw) as stream:
            yield from _rows(file, text_field, stream.schema, stream)


def _rows(file: Path, text_field: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Rows:
    columns = schema.names.count(text_field)
    if columns > 1:
        raise bad_value("corpus.text_field", text_field, f"{file} has {columns} columns of this name")
    if columns and not _is_text(type_ := schema.field(text_field).type):
        raise bad_value("corpus.text_field", text_field, f"this column of {file} holds {type_}, not text")
    n = 0
    for batch in batches:
        for i in range(batch.num_rows):
            n += 1
            try:
                row = {text_field: batch.column(text_field)[i].as_py()} if columns else dict.fromkeys(schema.names)
            except UnicodeDecodeError as error:
                raise bad_value("corpus.path", file, f"row {n} is not UTF-8 text") from error
            yield f"row {n}", row


def _is_text(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        return _is_text(type_.value_type)
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return any(check(type_) for check in checks)
