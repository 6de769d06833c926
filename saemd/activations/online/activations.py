"""`activations=online`: the language model runs while the SAE trains. Memory and disk hold a bounded number of tokens.

A small cache on disk holds the first training activations and the held-out ones. It gives scale, mean, the outliers'
limit and what validation measures, so they depend on the settings alone, not on the seed.
"""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from itertools import islice
from threading import Event
from typing import Any

import torch
from torch import Tensor

from saemd.activations.config import OnlineConfig
from saemd.activations.disk.cache import ActivationCache
from saemd.activations.disk.manifest import Origin
from saemd.activations.disk.sharded import HeldoutBatches, check_stream
from saemd.activations.online.blocks import Block, Blocks, Harvest, batched_rows
from saemd.activations.online.contexts import ContextStore
from saemd.activations.streams.prefetch import prefetched
from saemd.activations.streams.stream import BatchStream, Maker
from saemd.progress import print_line


class OnlineActivations:
    """A source of `saemd.activations.source.Source`. `first` is the small cache; `harvest` runs the language model.

    `overlaps`: a thread harvests the next block while one is served. The batches are the same without it.
    """

    def __init__(
        self, first: ActivationCache, origin: Origin, store: ContextStore, harvest: Harvest, config: OnlineConfig,
        device: torch.device, overlaps: bool = True,
    ) -> None:  # fmt: skip
        self.overlaps = overlaps and config.prefetch_batches > 0
        self.first, self.origin, self.store, self.harvest, self.config = first, origin, store, harvest, config
        self.device = device
        self.d_in, self.scale, self.mean, self.fingerprint = first.d_in, first.scale, first.mean, origin.fingerprint

    def summary(self) -> dict[str, Any]:
        """As the cache's. `n_train` counts an epoch's tokens before outliers are dropped."""
        epoch = {"n_train": self.store.tokens, "statistics_tokens": self.first.n_train}
        return {**self.first.summary(), "fingerprint": self.fingerprint, **epoch}

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """`n` different activations of the first training tokens, float32 [n, D] in raw units, or all of them."""
        return self.first.sample(n, seed)

    def heldout(self, batch_size: int) -> HeldoutBatches:
        """The same activations as those of a cache with these settings."""
        return self.first.heldout(batch_size)

    def stream(self, batch_size: int, tokens: int, seed: int, rank: int = 0, world: int = 1) -> BatchStream:
        """See `Source.stream`. Each process runs the language model on all blocks. Raises `UserError`.

        A line says so if the tokens are more than the text has.
        """
        check_stream(batch_size, tokens, seed, world)
        if tokens > self.store.tokens:
            print_line(
                f"tokens={tokens:,} are {tokens / self.store.tokens:.1f} epochs of the {self.store.tokens:,} training "
                "tokens of text; each epoch runs the language model again (activations=cache would not)"
            )
        first = self.store.tokens // -(-self.store.tokens // block_tokens(self.config))  # blocks are of about one size
        print_line(f"training begins when the language model has run on {first:,} tokens")
        length = self.origin.context_length
        blocks = Blocks(
            self.store,
            block_contexts=block_tokens(self.config) // length,
            batch_contexts=max(1, self.config.lm_batch_tokens // length),
            seed=seed,
            harvest=self.harvest,
            width=self.d_in,
            device=self.device,
        )
        order = {
            "cache": self.fingerprint,
            "seed": seed,
            "batch_size": batch_size,
            "buffer_tokens": self.config.buffer_tokens,
            "lm_dtype": self.first.manifest.lm_dtype,
        }
        factor, prefetch = float(self.first.factor), self.config.prefetch_batches
        size = batch_size // world
        rows = slice(rank * size, (rank + 1) * size)
        return OnlineStream(blocks, factor, tokens, order, rows, prefetch, self.overlaps)


class OnlineStream(BatchStream):
    """Batches of shuffled blocks. The state also has the block of the next batch and the number of tokens before it."""

    def __init__(
        self, blocks: Blocks, factor: float, tokens: int, order: dict[str, Any], rows: slice, prefetch_batches: int,
        overlaps: bool,
    ) -> None:  # fmt: skip
        self.blocks, self.rows, self.overlaps = blocks, rows, overlaps
        self.batch_size = order["batch_size"]
        super().__init__(self._makers, factor, tokens // self.batch_size, order, prefetch_batches)

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        block, token = self.blocks.locate(state["batches"] * self.batch_size)
        return {**state, "block": block, "block_token": token}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.blocks.starts = {0: 0, state["block"]: state["block_token"]}

    def _makers(self, begin: int, raw: bool) -> Iterator[Maker]:
        token, end = begin * self.batch_size, self.n_batches * self.batch_size
        first, start = self.blocks.locate(token)
        stop = Event()
        harvests = self.blocks.makers(first, end, stop)
        with ExitStack() as closed:
            harvested = prefetched(harvests, int(self.overlaps), n_threads=1, name="language model")
            blocks = closed.enter_context(closing(harvested))
            closed.callback(stop.set)  # before the thread is waited for
            batches = batched_rows(blocks, self.batch_size, token - start)
            for parts in islice(batches, self.n_batches - begin):
                yield partial(self._make, parts, raw)

    def _make(self, parts: list[tuple[Block, int, int]], raw: bool) -> Tensor:
        x_BD = torch.cat([block.rows(first, last) for block, first, last in parts])[self.rows]
        return x_BD if raw else x_BD.float().mul_(self.factor)


def block_tokens(config: OnlineConfig) -> int:
    """Tokens of a block, whole contexts: half of the buffer, since one block is served while the next is harvested."""
    return max(1, config.buffer_tokens // 2 // config.context_length) * config.context_length
