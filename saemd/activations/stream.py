"""The cache as a stream of batches in a seeded order, with an exact state, in bounded memory.

The order (`saemd.activations.order`) shuffles the shards of each epoch, and the tokens within windows of
`window_tokens`. It is a function of seed, epoch and window alone, so the place in the stream is one number: the batches
that were taken. Epochs follow each other without a gap; a batch may hold the last tokens of one and the first of the
next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saemd.activations.cache import ActivationCache
from saemd.activations.gather import batches
from saemd.activations.order import windows
from saemd.activations.transfer import Sent, arrived, send
from saemd.errors import UserError, bad_value


class ActivationStream:
    """Exactly `tokens // batch_size` batches [B, D], divided by the cache's scale; a loader for Lightning.

    It takes `window_tokens` · D · 2 bytes (or the cache's size where that is less) and `prefetch_batches` + 2 batches;
    the next window waits in the page cache, which the system may take back. Its state is that of the batches taken
    from it, not of those made ahead: after `load_state_dict` the next iteration begins there, and any later one at the
    first batch. Raises `UserError` where tokens do not fill a batch.
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
        self.device: torch.device | None = None  # a GPU that batches are sent to ahead of their use
        self._taken = 0  # batches of the iteration that runs, or ran last
        self._begin = 0  # where the next iteration begins

    def __len__(self) -> int:
        return self.tokens // self.batch_size

    def __iter__(self) -> Iterator[Tensor]:
        """Nothing is read before the first batch is asked for, and the thread ends with the iteration."""
        self._taken, self._begin = self._begin, 0
        made = self._batches(self._taken)
        on_device: Iterator[Tensor | Sent] = send(made, self.device) if self.device else made
        if self.prefetch_batches == 0:
            for batch in on_device:
                self._taken += 1
                yield arrived(batch)
            return
        with_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="activations")
        ahead: deque[Future[Tensor | Sent | None]] = deque()
        try:
            for _ in range(self.prefetch_batches):
                ahead.append(with_thread.submit(next, on_device, None))
            while (batch := ahead.popleft().result()) is not None:
                ahead.append(with_thread.submit(next, on_device, None))
                self._taken += 1
                yield arrived(batch)
        finally:
            for future in ahead:
                future.cancel()
            with_thread.shutdown(wait=True)

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self._begin or self._taken, **self._order()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises `UserError` where the state is that of another order."""
        for key, value in self._order().items():
            if state[key] != value:
                raise UserError(
                    f"the checkpoint's stream had {key}={state[key]}, this one has {value}; start a new run"
                )
        self._begin = self._taken = state["batches"]

    def _order(self) -> dict[str, Any]:
        """What the order of tokens depends on."""
        return {
            "cache": self.cache.fingerprint,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "window_tokens": self.window_tokens,
        }

    def _batches(self, begin: int) -> Iterator[Tensor]:
        made = batches(self._rows(begin * self.batch_size), self.batch_size, self.cache.factor, self.dtype)
        return islice(made, len(self) - begin)

    def _rows(self, token: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(a window's rows, a batch's part of its order) from the stream's given token on.

        For each batch that a window gives, the disk is told of as many tokens of the next one, so that it works in the
        meantime and the next comes out of the page cache.
        """
        shards = self.cache.manifest.splits["train"].shards
        buffer_ND = np.empty((min(self.window_tokens, self.cache.n_train), self.cache.d_in), dtype=np.uint16)
        upcoming = windows(shards, self.seed, self.window_tokens, token)
        window = next(upcoming)
        while True:
            rows_ND, done = buffer_ND[: window.tokens], 0
            for shard, first, tokens in window.parts():
                self.cache.read(shard, first, rows_ND[done : done + tokens])
                done += tokens
            following, order = next(upcoming), window.order()
            for i in range(max(0, token - window.first), window.tokens, self.batch_size):
                if following.first < self.tokens:
                    for shard, first, tokens in following.parts(i, self.batch_size):
                        self.cache.read_ahead(shard, first, tokens)
                yield rows_ND, order[i : i + self.batch_size]
            window = following
