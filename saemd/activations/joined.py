"""Streams of several runs as one: the batches of a stack of SAEs.

Activations that lie in a GPU's memory are gathered by index, the batches of all runs at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import lightning as pl
import torch
from torch import Tensor

from saemd.activations.memory import MemoryActivations
from saemd.activations.source import Source


class JoinedStream:
    """Batches [S, B, D] in normalised units, each run's in the order of its seed; seeds that are equal are read once.

    The state has that of each run's own stream.
    """

    def __init__(self, source: Source, batch_size: int, tokens: int, seeds: Sequence[int]) -> None:
        self.source, self.batch_size = source, batch_size
        self.streams = {seed: source.stream(batch_size, tokens, seed) for seed in dict.fromkeys(seeds)}
        self.places = [list(self.streams).index(seed) for seed in seeds]

    def __len__(self) -> int:
        return len(next(iter(self.streams.values())))

    def __iter__(self) -> Iterator[Tensor]:
        if isinstance(self.source, MemoryActivations) and self.source.rows.device.type == "cuda":
            yield from self.gathered(self.source)
            return
        for batches in zip(*self.streams.values(), strict=True):
            if len(batches) == 1:
                yield batches[0].expand(len(self.places), -1, -1)
            else:
                yield torch.stack([batches[place] for place in self.places])

    def gathered(self, source: MemoryActivations) -> Iterator[Tensor]:
        """The same batches."""
        begin, *_ = [stream.begin() for stream in self.streams.values()]
        orders = [source.batches(self.batch_size, seed, begin) for seed in self.streams]
        for _ in range(begin, len(self)):
            batches = [next(order) for order in orders]
            for stream in self.streams.values():
                stream.took()
            if len(batches) == 1:
                yield source.gather(batches).expand(len(self.places), -1, -1)
            else:
                yield source.gather([batches[place] for place in self.places])

    def state_dict(self) -> dict[str, Any]:
        states = [stream.state_dict() for stream in self.streams.values()]
        return {"members": [states[place] for place in self.places]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for place, stream in enumerate(self.streams.values()):
            stream.load_state_dict(state["members"][self.places.index(place)])


class JoinedDataModule(pl.LightningDataModule):
    """The stack's stream, and held-out batches [B, D] that all its SAEs are measured on."""

    def __init__(self, source: Source, batch_size: int, tokens: int, seeds: Sequence[int]) -> None:
        super().__init__()
        self.stream = JoinedStream(source, batch_size, tokens, seeds)
        self.heldout = source.heldout(batch_size)

    def train_dataloader(self) -> JoinedStream:
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        for stream in self.stream.streams.values():
            stream.device = device if device.type == "cuda" else None
        return self.stream

    def val_dataloader(self) -> Iterable[Tensor]:
        return self.heldout
