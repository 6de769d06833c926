"""Batches in a fixed order, with an exact state. Every source of activations returns such a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import torch
from torch import Tensor

from saemd.activations.prefetch import prefetched
from saemd.activations.transfer import arrived, sender
from saemd.errors import UserError

Maker = Callable[[], Tensor]  # makes one batch [B, D]; threads call several at once


class BatchStream:
    """Exactly `n_batches` batches; a loader for Lightning.

    `makers(i)` yields a function for every batch from number i to the end. Threads call `prefetch_batches` of them
    early, and memory holds two batches more. `order` holds all that decides the order of tokens.

    The state counts the batches taken, not those made early. After `load_state_dict` the next iteration begins at the
    first batch that was not taken, and every later one at batch 0.
    """

    def __init__(
        self, makers: Callable[[int], Iterator[Maker]], n_batches: int, order: dict[str, Any], prefetch_batches: int
    ) -> None:
        self.makers, self.n_batches, self.order, self.prefetch_batches = makers, n_batches, order, prefetch_batches
        self.device: torch.device | None = None  # the GPU that batches are sent to ahead of their use
        self._taken = 0  # batches of the current iteration, or of the last one
        self._begin = 0  # first batch of the next iteration

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[Tensor]:
        """Nothing is read before the first batch is asked for, and the threads end with the iteration."""
        self._taken, self._begin = self._begin, 0
        makers: Iterator[Callable[[], Any]] = self.makers(self._taken)
        if self.device:
            send = sender(self.device)
            makers = ((lambda make=make: send(make())) for make in makers)
        n_threads = 1 if torch.get_num_threads() < 3 else 2  # the training step uses the others
        with closing(prefetched(makers, self.prefetch_batches, n_threads, name="activations")) as batches:
            for batch in batches:
                self._taken += 1
                yield arrived(batch)

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self._begin or self._taken, **self.order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises `UserError` for the state of a stream in another order."""
        saved = {"world": 1, "lm_dtype": self.order.get("lm_dtype"), **state}  # which earlier versions did not save
        for key, value in self.order.items():
            if (before := saved.get(key, "none")) != value:
                raise UserError(f"the checkpoint's stream had {key}={before}, this one has {value}; start a new run")
        self._begin = self._taken = state["batches"]
