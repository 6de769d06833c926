"""The same documents in every form in which a user's file may hold them."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from saemd.corpus.config import CorpusConfig
from saemd.corpus.files import read_files

TEXTS = [f"{n} {'ä😀' * (n % 3)} \u2028 {'x' * (n * n % 700)}" for n in range(400)]


def lines(texts: list[str], **more: object) -> bytes:
    return "".join(json.dumps({"id": n, "text": text, **more}) + "\n" for n, text in enumerate(texts)).encode()


def frames(content: bytes) -> bytes:
    """zstd in three frames, one of which is for other tools and is skipped."""
    half = len(content) // 2
    aside = b"\x50\x2a\x4d\x18\x02\0\0\0ab"
    return zstandard.compress(content[:half]) + aside + zstandard.compress(content[half:])


def parquet(texts: Sequence[str | None]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), sink, row_group_size=150)
    return sink.getvalue().to_pybytes()


def arrow(texts: Sequence[str]) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table({"id": range(len(texts)), "text": texts})
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


ROWS = [{"id": n, "text": text} for n, text in enumerate(TEXTS)]
FORMS: dict[str, Callable[[], bytes]] = {
    "a.jsonl": lambda: lines(TEXTS),
    "UPPER.JSONL": lambda: lines(TEXTS),
    "no newline.ndjson": lambda: lines(TEXTS).rstrip(),
    "lines.json": lambda: lines(TEXTS),
    "array.json": lambda: json.dumps(ROWS, indent=1, ensure_ascii=False).encode(),
    "array.jsonl": lambda: json.dumps(ROWS).encode(),
    "objects.json": lambda: "\n".join(json.dumps(row, indent=2) for row in ROWS).encode(),
    "objects.jsonl": lambda: b"\n" + "".join(json.dumps(row, indent=2) for row in ROWS).encode(),
    "windows.jsonl": lambda: b"\xef\xbb\xbf" + lines(TEXTS).replace(b"\n", b"\r\n\r\n"),
    "a.jsonl.gz": lambda: gzip.compress(lines(TEXTS[:200])) + gzip.compress(lines(TEXTS[200:])),
    "a.json.gz": lambda: gzip.compress(lines(TEXTS)),
    "array.json.gz": lambda: gzip.compress(b"\xef\xbb\xbf\n " + json.dumps(ROWS).encode()),
    "a.ndjson.zst": lambda: frames(lines(TEXTS)),
    "RC_2020-01.zst": lambda: frames(lines(TEXTS)),
    "a.jsonl.bz2": lambda: bz2.compress(lines(TEXTS)),
    "a.jsonl.XZ": lambda: lzma.compress(lines(TEXTS)),
    "a.parquet": lambda: parquet(TEXTS),
    "data-00000-of-00001.arrow": lambda: arrow(TEXTS),
    "run[1]*, ~.jsonl": lambda: lines(TEXTS),
}


def read(path: Path, field: str = "text", seed: int = 0) -> list[str]:
    return list(read_files(path, field, seed))


def config(path: object, **more: object) -> CorpusConfig:
    return CorpusConfig(name="files", path=str(path), **more)  # type: ignore[arg-type]
