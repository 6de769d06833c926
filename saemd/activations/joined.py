"""Streams of several runs as one: the batches of a stack of SAEs.

Activations that lie in a GPU's memory are gathered by index, the batches of all runs of a source at once.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from saemd.activations.memory.activations import MemoryActivations
from saemd.activations.source import Source


class JoinedStream:
    """Batches [S, B, D] in normalised units, each run's of its own source and in the order of its seed.

    What runs of one source and seed have in common is read once. The state has that of each run's own stream.
    """

    def __init__(
        self, sources: Sequence[Source], batch_size: int, tokens: int, seeds: Sequence[int],
        rank: int = 0, world: int = 1,
    ) -> None:  # fmt: skip
        self.batch_size, self.n_runs, self.rank, self.world = batch_size, len(seeds), rank, world
        keys = [(source.fingerprint, seed) for source, seed in zip(sources, seeds, strict=True)]
        places = {source.fingerprint: place for place, source in reversed([*enumerate(sources)])}  # of the first run
        pairs = sorted(zip(keys, sources, strict=True), key=lambda pair: places[pair[0][0]])
        self.sources = dict(pairs)  # those of one source behind each other
        self.streams = {
            (of, seed): source.stream(batch_size, tokens, seed, rank, world)
            for (of, seed), source in self.sources.items()
        }
        self.places = [list(self.streams).index(key) for key in keys]

    def send_to(self, device: torch.device) -> None:
        """See `BatchStream.send_to`."""
        for stream in self.streams.values():
            stream.send_to(device)

    def __len__(self) -> int:
        return len(next(iter(self.streams.values())))

    def __iter__(self) -> Iterator[Tensor]:
        if all(_on_gpu(source) for source in self.sources.values()):
            yield from self.gathered()
            return
        for batches in zip(*self.streams.values(), strict=True):
            if len(batches) == 1:
                yield batches[0].expand(self.n_runs, -1, -1)
            else:
                yield torch.stack([batches[place] for place in self.places])

    def gathered(self) -> Iterator[Tensor]:
        """The same batches, of activations in memory."""
        begin, *_ = [stream.begin() for stream in self.streams.values()]
        groups = []  # each source, and the orders of its streams
        for _, group in groupby(self.sources.items(), key=lambda item: item[0][0]):
            seeds, sources = zip(*((seed, source) for (_, seed), source in group), strict=True)
            source = sources[0]
            assert isinstance(source, MemoryActivations)
            orders = [source.batches(self.batch_size, seed, begin, self.rank, self.world) for seed in seeds]
            groups.append((source, orders))
        for _ in range(begin, len(self)):
            parts = [source.gather([next(order) for order in orders]) for source, orders in groups]
            for stream in self.streams.values():
                stream.took()
            x_KBD = parts[0] if len(parts) == 1 else torch.cat(parts)  # a batch of each stream
            if len(x_KBD) == 1:
                yield x_KBD.expand(self.n_runs, -1, -1)
            elif self.places == list(range(len(x_KBD))):
                yield x_KBD
            else:
                yield torch.stack([x_KBD[place] for place in self.places])

    def state_dict(self) -> dict[str, Any]:
        states = [stream.state_dict() for stream in self.streams.values()]
        return {"members": [states[place] for place in self.places]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for place, stream in enumerate(self.streams.values()):
            stream.load_state_dict(state["members"][self.places.index(place)])


def _on_gpu(source: Source) -> bool:
    return isinstance(source, MemoryActivations) and source.rows.device.type == "cuda"


class JoinedHeldout:
    """The held-out batches of each source once, source after source: its fingerprint, and a batch [B, D]."""

    def __init__(self, sources: Sequence[Source], batch_size: int) -> None:
        self.batches = {source.fingerprint: source.heldout(batch_size) for source in sources}

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for fingerprint, batches in self.batches.items():
            for x_BD in batches:
                yield fingerprint, x_BD
