"""A batch out of shards: read, widened from bfloat16 to float32 and scaled."""

from __future__ import annotations

import weakref
from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from saemd.activations.shards import ShardFile, disk_bytes, to_float

_SCRATCH = 60_000  # values read at a time: they stay in the processor's cache, and in memory that malloc keeps


class BatchMemory:
    """Memory of batches, used again once nothing refers to a batch: the system clears fresh pages first, which can take
    as long as reading. Several threads may use it at once.
    """

    def __init__(self, batch_size: int, d_in: int) -> None:
        self._shape, self._free = (batch_size, d_in), list[np.ndarray]()

    def take(self, tokens: int) -> np.ndarray:
        """An uninitialised float32 array [tokens, D]; `tokens` at most the batch size."""
        try:
            whole = self._free.pop()
        except IndexError:
            whole = np.empty(self._shape, np.float32)
        part_BD = whole[:tokens]  # tensors made of it, and their views, refer to it
        weakref.finalize(part_BD, self._free.append, whole).atexit = False
        return part_BD


class BatchPlan:
    """What a batch is made of, in order: (shard, its first token, tokens); several threads may use it at once."""

    def __init__(self, parts: list[tuple[ShardFile, int, int]]) -> None:
        self.parts = parts
        self.tokens = sum(tokens for _, _, tokens in parts)
        self.d_in = parts[0][0].d_in
        self._places_P3 = np.array(
            [(file.fd, disk_bytes(first, self.d_in), disk_bytes(tokens, self.d_in)) for file, first, tokens in parts]
        )

    def announce(self) -> None:
        """Have the disk bring the tokens into the page cache, without waiting for it."""
        if kernels := _kernels():
            kernels.announce(self._places_P3)

    def read(self, factor: np.float32, dtype: torch.dtype = torch.float32, memory: BatchMemory | None = None) -> Tensor:
        """The tokens times `factor` [B, D], in memory of their own or out of `memory`.

        Raises `UserError` for a shard whose content is bad.
        """
        for file, _, _ in self.parts:
            file.check()
        x_BD = memory.take(self.tokens) if memory else np.empty((self.tokens, self.d_in), dtype=np.float32)
        whole = 0
        if kernels := _kernels():
            whole = kernels.read_widened(self._places_P3, factor, np.empty(_SCRATCH, np.uint16), x_BD.reshape(-1))
        if whole < len(self.parts):  # what the kernel could not read: reading it plainly says why
            self.read_plain(factor, x_BD)
        return torch.from_numpy(x_BD).to(dtype)

    def read_plain(self, factor: np.float32, out_BD: np.ndarray) -> None:
        """The same, part by part: the reference, and what is done without numba."""
        row = 0
        for file, first, tokens in self.parts:
            bits_ND = np.empty((tokens, self.d_in), dtype=np.uint16)
            file.read(first, bits_ND)
            np.multiply(to_float(bits_ND), factor, out=out_BD[row : row + tokens])
            row += tokens


@cache
def _kernels() -> ModuleType | None:
    """The compiled loops; None where numba is not installed."""
    try:
        from saemd.activations import kernels
    except ModuleNotFoundError as error:
        if error.name != "numba":
            raise
        return None
    return kernels
