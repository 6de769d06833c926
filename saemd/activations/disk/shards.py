"""Shards: files of raw bfloat16 activations [tokens, D], little-endian, without a header.

In memory they are numpy `uint16` arrays, since numpy has no bfloat16: a bfloat16 is the upper half of a float32.
"""

import hashlib
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from saemd.errors import UserError
from saemd.files import replacing

BYTES = 2  # of one bfloat16
_EXPONENT = 0x7F80  # all ones: NaN or infinite
_checked: set[tuple[str, int, int, bool]] = set()  # shards that this process has read completely, without a defect


def disk_bytes(tokens: int, d_in: int) -> int:
    """Bytes that `tokens` activations of width `d_in` take on disk."""
    return tokens * d_in * BYTES


def to_bits(x: Tensor) -> np.ndarray:
    """Rounded to bfloat16 (nearest, ties to even), as uint16 of the same shape."""
    return x.detach().to(torch.bfloat16).cpu().contiguous().view(torch.uint16).numpy()


def to_float(bits: np.ndarray) -> np.ndarray:
    """float32 of bfloat16 bits, exact, in a new array."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def count_non_finite(bits: np.ndarray) -> int:
    return int(np.count_nonzero((bits & _EXPONENT) == _EXPONENT))


def write_shard(path: Path, bits_ND: np.ndarray) -> str:
    """Write the shard as `saemd.files.replacing` does; returns its sha256."""
    with replacing(path) as partial:
        partial.write_bytes(bits_ND.data.cast("B"))
    return hashlib.sha256(bits_ND.data.cast("B")).hexdigest()


def check_size(path: Path, tokens: int, d_in: int) -> None:
    """Raises `UserError` where the file is missing, truncated, or of another width or length."""
    expected = disk_bytes(tokens, d_in)
    if not path.is_file():
        raise UserError(f"{path}: this shard is missing; delete {path.parent} and write the cache again")
    if (size := path.stat().st_size) != expected:
        raise UserError(
            f"{path}: {size:,} bytes instead of {expected:,} ({tokens:,} tokens of width {d_in}): truncated or of "
            f"another cache; delete {path.parent} and write it again"
        )


def check_content(path: Path, tokens: int, d_in: int, sha256: str | None) -> None:
    """Read a shard once per process. Raises `UserError` for another checksum, and for NaN or Inf in it.

    `sha256=None` leaves the checksum out.
    """
    check_size(path, tokens, d_in)
    status = path.stat()
    key = (str(path.resolve()), status.st_size, status.st_mtime_ns, sha256 is not None)
    if key in _checked:
        return
    digest, bad = hashlib.sha256(), 0
    for block in _blocks(path):
        if sha256 is not None:
            digest.update(block.data.cast("B"))
        bad += count_non_finite(block)
    if sha256 is not None and digest.hexdigest() != sha256:
        raise UserError(
            f"{path}: its checksum is not the manifest's: corrupt or of another cache; delete {path.parent} and "
            "write it again"
        )
    if bad:
        raise UserError(
            f"{path}: {bad:,} of {tokens * d_in:,} activations are NaN or infinite; delete {path.parent} and write it "
            "again with activations.lm_dtype=float32"
        )
    _checked.add(key)


def _blocks(path: Path, values: int = 1 << 20) -> Iterator[np.ndarray]:
    with open(path, "rb") as file:
        while (block := np.fromfile(file, dtype="<u2", count=values)).size:
            yield block


class ShardFile:
    """A shard open for reading by several threads at once; closed with the last reference to it.

    Raises `UserError` where it is missing, truncated or of another width.
    """

    def __init__(self, path: Path, tokens: int, d_in: int, sha256: str | None) -> None:
        check_size(path, tokens, d_in)
        self.path, self.tokens, self.d_in, self.sha256 = path, tokens, d_in, sha256
        self._good, self._checking = False, Lock()
        self.fd = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.fd).atexit = False  # threads may still read then; the system closes it

    def check(self, first: int = 0, tokens: int | None = None) -> None:
        """`check_content` of the whole shard, once. To be called before these tokens, all by default, are used."""
        if not self._good:
            with self._checking:  # by one thread; the others wait for it
                if not self._good:
                    check_content(self.path, self.tokens, self.d_in, self.sha256)
                    self._good = True

    def read(self, start: int, out_ND: np.ndarray) -> None:
        """Fill `out_ND` (uint16, contiguous) with the tokens from `start` on."""
        wanted, offset, done = out_ND.data.cast("B"), disk_bytes(start, self.d_in), 0
        while done < len(wanted):
            got = os.preadv(self.fd, [wanted[done:]], offset + done)
            if not got:
                raise UserError(
                    f"{self.path}: it ends before token {start + len(out_ND):,}; truncated while being read"
                )
            done += got
