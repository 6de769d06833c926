"""The cache as a stream of batches in a seeded order, with an exact state, in bounded memory.

The order (`saemd.activations.order`) shuffles the shards of each epoch, and within windows of `window_tokens` slices of
them; a batch is made of about `SLICES`. It is a function of settings, seed and epoch alone, so the place in the stream
is one number: the batches that were taken. Epochs follow each other without a gap; a batch may hold the last tokens of
one and the first of the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from saemd.activations.ahead import made_ahead
from saemd.activations.batch import BatchMemory, BatchPlan
from saemd.activations.cache import ActivationCache
from saemd.activations.order import slices
from saemd.activations.shards import disk_bytes
from saemd.activations.transfer import Sent, arrived, sender
from saemd.errors import UserError, bad_value

SLICES = 8  # that make up a batch: fewer are read faster, more come from more places
_ANNOUNCED = 32_000_000  # bytes that the disk is told of before they are read
_MOST_ANNOUNCED = 32  # batches, which keep their shards open


class ActivationStream:
    """Exactly `tokens // batch_size` batches [B, D], divided by the cache's scale; a loader for Lightning.

    It takes the memory of `prefetch_batches` + 2 batches, whatever the window; what the disk brings ahead waits in the
    page cache, which the system may take back. Its state is that of the batches taken from it, not of those made ahead:
    after `load_state_dict` the next iteration begins there, and any later one at the first batch. Raises `UserError`
    where tokens do not fill a batch.
    """

    def __init__(
        self,
        cache: ActivationCache,
        batch_size: int,
        tokens: int,
        seed: int,
        window_tokens: int,
        prefetch_batches: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if batch_size < 1:
            raise bad_value("batch_size", batch_size, "use at least 1")
        if tokens < batch_size:
            raise bad_value("tokens", tokens, f"use at least one batch, batch_size={batch_size}")
        if cache.n_train < batch_size:
            raise bad_value("batch_size", batch_size, f"the cache has {cache.n_train} tokens; raise activations.tokens")
        if seed < 0:
            raise bad_value("seed", seed, "use 0 or more")
        if window_tokens < 1:
            raise bad_value("activations.window_tokens", window_tokens, "use at least 1")
        self.cache, self.batch_size, self.tokens, self.seed = cache, batch_size, tokens, seed
        self.window_tokens, self.prefetch_batches, self.dtype = window_tokens, prefetch_batches, dtype
        self.slice_tokens = -(-batch_size // SLICES)
        self.device: torch.device | None = None  # a GPU that batches are sent to ahead of their use
        self._taken = 0  # batches of the iteration that runs, or ran last
        self._begin = 0  # where the next iteration begins

    def __len__(self) -> int:
        return self.tokens // self.batch_size

    def __iter__(self) -> Iterator[Tensor]:
        """Nothing is read before the first batch is asked for, and the threads end with the iteration."""
        self._taken, self._begin = self._begin, 0
        send = sender(self.device) if self.device else None
        memory = BatchMemory(self.batch_size, self.cache.d_in)
        n_threads = 1 if torch.get_num_threads() < 3 else 2  # whoever waits for a batch makes one as well

        def make(plan: BatchPlan, later: BatchPlan | None) -> Tensor | Sent:
            if later:
                later.announce()
            batch = plan.read(self.cache.factor, self.dtype, memory)
            return send(batch) if send else batch

        tasks = self._tasks(self._taken)
        with closing(made_ahead(make, tasks, n_threads, self.prefetch_batches, name="activations")) as made:
            for batch in made:
                self._taken += 1
                yield arrived(batch)

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self._begin or self._taken, **self._order()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises `UserError` where the state is that of another order."""
        for key, value in self._order().items():
            if (before := state.get(key, "none")) != value:
                raise UserError(f"the checkpoint's stream had {key}={before}, this one has {value}; start a new run")
        self._begin = self._taken = state["batches"]

    def _order(self) -> dict[str, Any]:
        """What the order of tokens depends on."""
        return {
            "cache": self.cache.fingerprint,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "window_tokens": self.window_tokens,
            "slice_tokens": self.slice_tokens,
        }

    def _tasks(self, begin: int) -> Iterator[tuple[BatchPlan, BatchPlan | None]]:
        """(a batch to make, a later one to tell the disk of, in good time) from the stream's batch `begin` on."""
        there = self.cache.manifest.splits["train"].shards
        parts = slices(there, self.seed, self.window_tokens, self.slice_tokens, begin * self.batch_size)
        plans = islice(self.cache.plans(parts, self.batch_size), len(self) - begin)
        most = 1 + min(_ANNOUNCED // disk_bytes(self.batch_size, self.cache.d_in), _MOST_ANNOUNCED)
        ahead = deque(islice(plans, most))
        for plan in ahead:
            plan.announce()
        while ahead:
            plan, later = ahead.popleft(), next(plans, None)
            if later:
                ahead.append(later)
            yield plan, later
