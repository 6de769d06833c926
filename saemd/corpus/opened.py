"""A user's file as bytes, decompressed by its name's ending. A truncated file is an error wherever it ends."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import zstandard

from saemd.errors import UserError, bad_value

_BUFFER_BYTES = 1 << 17
_CHUNK_BYTES = 1 << 15  # of a compressed file; its text is about four times as long
_LARGEST_WINDOW = 1 << 31  # bytes; `zstd --long=31`, as the Reddit dumps are written
_CAUSES = (OSError, EOFError, UnicodeDecodeError, zlib.error, lzma.LZMAError, zstandard.ZstdError, pa.ArrowException)


def opened(file: Path) -> io.BufferedReader[Any]:
    """The file's bytes, decompressed if its name ends in one of `COMPRESSED` (in any case)."""
    decompress = _DECOMPRESS.get(file.suffix.lower())
    return io.BufferedReader(decompress(file) if decompress else io.FileIO(file), _BUFFER_BYTES)


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """In the block, the errors of a damaged or unreadable file become one `UserError` that names it."""
    try:
        yield
    except EOFError as error:
        raise bad_value("corpus.path", file, f"the file is cut off ({_reason(error)}); get it again") from error
    except UserError:
        raise
    except _CAUSES as error:
        reason = f"cannot be read ({type(error).__name__}: {_reason(error)})"
        raise bad_value("corpus.path", file, reason) from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the file's name, which is in the message already
    return " ".join(str(error).split())[:160]


class _Zstd(io.RawIOBase):
    """All frames of a zstd file. Raises `EOFError` for a truncated last one, which zstandard's own reader ignores."""

    def __init__(self, file: Path) -> None:
        self._blocks, self._left = _zstd_blocks(file), memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._left = self._left or memoryview(next(self._blocks, b""))
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size


def _zstd_blocks(file: Path) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
    frame = None
    with open(file, "rb") as raw:
        while chunk := raw.read(_CHUNK_BYTES):
            while chunk:
                frame = frame or decompressor.decompressobj()
                if block := frame.decompress(chunk):
                    yield block
                if not frame.eof:
                    break
                chunk, frame = frame.unused_data, None
    if frame is not None:
        raise EOFError("it ends within a zstd frame")


_DECOMPRESS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open, ".zst": _Zstd, ".bz2": bz2.open, ".xz": lzma.open,
}  # fmt: skip
COMPRESSED = tuple(_DECOMPRESS)
