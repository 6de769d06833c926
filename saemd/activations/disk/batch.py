"""A batch made of slices of shards: read, widened from bfloat16 to float32 and scaled."""

from collections import deque
from collections.abc import Iterator
from functools import cache, partial
from itertools import islice
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from saemd.activations.disk.shards import ShardFile, disk_bytes, to_float
from saemd.activations.streams.stream import Maker

_SCRATCH = 60_000  # values read at a time: they stay in the processor's cache, and in memory that malloc keeps


class BatchPlan:
    """The parts of a batch, in order: (shard, first token, tokens). Several threads may use it at once."""

    def __init__(self, parts: list[tuple[ShardFile, int, int]]) -> None:
        self.parts = parts
        self.tokens = sum(tokens for _, _, tokens in parts)
        self.d_in = parts[0][0].d_in
        self._places_P3 = np.array(
            [(file.fd, disk_bytes(first, self.d_in), disk_bytes(tokens, self.d_in)) for file, first, tokens in parts]
        )

    def raw(self) -> Tensor:
        """The tokens as they are stored, bfloat16 [B, D], in pinned memory where there is a GPU. Raises `UserError`."""
        x_BD = torch.empty(self.tokens, self.d_in, dtype=torch.bfloat16, pin_memory=torch.cuda.is_available())
        bits_BD, row = x_BD.view(torch.uint16).numpy(), 0
        for file, first, tokens in self.parts:
            file.check(first, tokens)
            file.read(first, bits_BD[row : row + tokens])
            row += tokens
        return x_BD

    def announce(self) -> None:
        """Ask the system to bring the tokens from the disk into its page cache, without waiting for them."""
        if kernels := _kernels():
            kernels.announce(self._places_P3)

    def read(self, factor: np.float32) -> Tensor:
        """The tokens times `factor`, float32 [B, D]. Raises `UserError` for a shard with bad content."""
        for file, first, tokens in self.parts:
            file.check(first, tokens)
        x_BD = np.empty((self.tokens, self.d_in), dtype=np.float32)
        n_read = 0
        if kernels := _kernels():
            n_read = kernels.read_widened(self._places_P3, factor, np.empty(_SCRATCH, np.uint16), x_BD.reshape(-1))
        if n_read < len(self.parts):  # the plain reader raises the error that stopped the kernel
            self.read_plain(factor, x_BD)
        return torch.from_numpy(x_BD)

    def read_plain(self, factor: np.float32, out_BD: np.ndarray) -> None:
        """The same, part by part: the reference, and the only reader where numba is not installed."""
        row = 0
        for file, first, tokens in self.parts:
            bits_ND = np.empty((tokens, self.d_in), dtype=np.uint16)
            file.read(first, bits_ND)
            np.multiply(to_float(bits_ND), factor, out=out_BD[row : row + tokens])
            row += tokens


def readers(plans: Iterator[BatchPlan], factor: np.float32 | None, announced: int) -> Iterator[Maker]:
    """One function per plan that reads its batch, raw without a factor. `announced` plans are announced to the disk."""
    coming = deque(islice(plans, announced))
    for plan in coming:
        plan.announce()
    while coming:
        plan, later = coming.popleft(), next(plans, None)
        if later:
            coming.append(later)
        yield partial(_read, plan, later, factor)


def _read(plan: BatchPlan, later: BatchPlan | None, factor: np.float32 | None) -> Tensor:
    if later:
        later.announce()
    return plan.raw() if factor is None else plan.read(factor)


@cache
def _kernels() -> ModuleType | None:
    """The compiled loops; None where numba is not installed."""
    try:
        from saemd.activations.disk import kernels
    except ModuleNotFoundError as error:
        if error.name != "numba":
            raise
        return None
    return kernels
