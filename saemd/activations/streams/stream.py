"""Batches in a fixed order, with an exact state. Every source of activations returns such a stream."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import torch
from torch import Tensor

from saemd.activations.streams.prefetch import prefetched
from saemd.activations.streams.transfer import arrived, sender
from saemd.errors import UserError

Maker = Callable[[], Tensor]  # makes one batch [B, D]; threads call several at once


class BatchStream:
    """Exactly `n_batches` batches; a loader for Lightning.

    `makers(i, raw)` yields a function for every batch from number i to the end: float32 times `factor`, or raw as it is
    stored, in bfloat16. Threads call `prefetch_batches` of them early, and memory holds two batches more. `order` holds
    all that decides the order of tokens.

    The state counts the batches taken, not those made early. After `load_state_dict` the next iteration begins at the
    first batch that was not taken, and every later one at batch 0.
    """

    def __init__(
        self, makers: Callable[[int, bool], Iterator[Maker]], factor: float, n_batches: int, order: dict[str, Any],
        prefetch_batches: int,
    ) -> None:  # fmt: skip
        self.makers, self.factor, self.n_batches, self.order = makers, factor, n_batches, order
        self.prefetch_batches = prefetch_batches
        self.device: torch.device | None = None  # the GPU that batches are sent to ahead of their use
        self._taken = 0  # batches of the current iteration, or of the last one
        self._begin = 0  # first batch of the next iteration

    def send_to(self, device: torch.device) -> None:
        """Copy batches to a GPU ahead of their use. Those for a CPU are made where they are used."""
        self.device = device if device.type == "cuda" else None

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[Tensor]:
        """Nothing is read before the first batch is asked for, and the threads end with the iteration."""
        begin = self.begin()
        makers: Iterator[Callable[[], Any]] = self.makers(begin, self.device is not None)
        if self.device:  # half the bytes, and the GPU widens and scales them
            send = sender(self.device, self.factor)
            makers = ((lambda make=make: send(make())) for make in makers)
        n_threads = 1 if torch.get_num_threads() < 3 else 2  # the training step uses the others
        with closing(prefetched(makers, self.prefetch_batches, n_threads, name="activations")) as batches:
            for batch in batches:
                self.took()
                yield arrived(batch)

    def begin(self) -> int:
        """Start an iteration; returns the number of its first batch."""
        self._taken, self._begin = self._begin, 0
        return self._taken

    def took(self) -> None:
        """Count a batch of this iteration."""
        self._taken += 1

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self._begin or self._taken, **self.order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises `UserError` for the state of a stream in another order."""
        saved = {"lm_dtype": self.order.get("lm_dtype"), **state}  # which earlier versions did not save
        for key, value in self.order.items():
            if (before := saved.get(key, "none")) != value:
                raise UserError(f"the checkpoint's stream had {key}={before}, this one has {value}; start a new run")
        self._begin = self._taken = state["batches"]
