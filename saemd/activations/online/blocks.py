"""Online activations: the language model is run on blocks of contexts, and each block is shuffled as a whole.

An epoch puts all contexts into a random order and cuts them into blocks of nearly equal size; each block's tokens are
served in a random order. Seed, epoch and block number alone decide a block, so a resumed run harvests again only the
block it stopped in. One block is served while the next one is harvested.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from threading import Event

import numpy as np
import torch
from torch import Tensor

from saemd.activations.online.contexts import ContextStore

Harvest = Callable[[Tensor, Tensor], Tensor]  # input_ids, keep [B, T] → activations bfloat16 [N, D] of a batch


@dataclass(frozen=True)
class Block:
    """A block's activations and the order in which they are served. The contexts' own order is that of `values`."""

    values: Tensor  # bfloat16 [N, D], raw
    order: Tensor  # int64 [N], a permutation, on the device of `values`

    def __len__(self) -> int:
        return len(self.order)

    def rows(self, first: int, last: int) -> Tensor:
        """The tokens `first` to `last` in the order in which they are served, bfloat16 [last − first, D]."""
        return self.values[self.order[first:last]]


class Blocks:
    """The blocks of one seed, epoch after epoch, without end. Block j is of epoch j // `per_epoch`.

    `starts[j]` is the number of tokens in all blocks before block j, known for blocks that were reached. It depends on
    the outliers, so it is known only when the blocks before are harvested, or from a checkpoint.
    """

    def __init__(
        self, store: ContextStore, block_contexts: int, batch_contexts: int, seed: int, harvest: Harvest, width: int,
        device: torch.device,
    ) -> None:  # fmt: skip
        self.store, self.batch_contexts, self.seed, self.harvest = store, batch_contexts, seed, harvest
        self.width, self.device = width, device
        self.per_epoch = -(-len(store) // block_contexts)
        self.starts = {0: 0}

    def contexts(self, j: int) -> np.ndarray:
        """The numbers of block j's contexts, in the order in which they pass the language model."""
        epoch, k = divmod(j, self.per_epoch)
        n = len(self.store)
        order = np.random.default_rng([self.seed, epoch, 0]).permutation(n)
        return order[k * n // self.per_epoch : (k + 1) * n // self.per_epoch]

    def locate(self, token: int) -> tuple[int, int]:
        """The last known block that starts at or before the stream's token `token`, and its start."""
        known = list(self.starts.items())  # a copy: a thread may add one
        return max((j, start) for j, start in known if start <= token)

    def makers(self, first: int, end: int, stop: Event) -> Iterator[Callable[[], Block]]:
        """A function for each block from number `first` on that harvests it, until the stream's token `end`.

        Each one must be called before the next one is asked for. They raise `StoppedError` once `stop` is set.
        """
        for j in count(first):
            if self.starts[j] >= end:
                return
            yield partial(self.make, j, stop)

    def make(self, j: int, stop: Event) -> Block:
        """Harvest block j."""
        numbers = self.contexts(j)
        batches = [numbers[i : i + self.batch_contexts] for i in range(0, len(numbers), self.batch_contexts)]
        room = sum(int(self.store.read(batch)[1].sum()) for batch in batches)
        values_ND = torch.empty(room, self.width, dtype=torch.bfloat16, device=self.device)
        n = 0
        for batch in batches:
            if stop.is_set():
                raise StoppedError
            harvested_ND = self.harvest(*self.store.read(batch))
            values_ND[n : n + len(harvested_ND)] = harvested_ND
            n += len(harvested_ND)
        epoch, k = divmod(j, self.per_epoch)
        order_N = torch.from_numpy(np.random.default_rng([self.seed, epoch, 1 + k]).permutation(n)).to(self.device)
        self.starts[j + 1] = self.starts[j] + n
        return Block(values_ND[:n], order_N)


class StoppedError(Exception):
    """Nobody waits for the block any more."""


def batched_rows(blocks: Iterator[Block], batch_size: int, skipped: int) -> Iterator[list[tuple[Block, int, int]]]:
    """The parts (block, first, last) of each batch, without the first `skipped` tokens. All batches are full."""
    parts, room = [], batch_size
    for block in blocks:
        at = min(skipped, len(block))
        skipped -= at
        while at < len(block):
            last = min(at + room, len(block))
            parts.append((block, at, last))
            room -= last - at
            at = last
            if not room:
                yield parts
                parts, room = [], batch_size
        del block  # its memory is needed while the next one is waited for
