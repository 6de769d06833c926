"""`activations=memory`: the cache's activations in the memory of the host or of the GPU. Nothing is written to a disk.

The shards, their statistics and the order of tokens are the cache's, so a run from memory is the run from the cache. A
finished cache of the same settings is read instead of running the language model. Jobs of one process share the
activations of the last settings.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from saemd.activations.config import ActivationsConfig
from saemd.activations.disk.cache import ActivationCache
from saemd.activations.disk.manifest import SPLITS, Manifest, Origin, Shard, SplitName
from saemd.activations.disk.order import Part
from saemd.activations.disk.sharded import ShardedSource
from saemd.activations.streams.stream import Maker
from saemd.activations.streams.transfer import scaled
from saemd.errors import UserError


@dataclass(frozen=True)
class Rows:
    """Both splits' activations, shard behind shard: bfloat16 [N, D] each, on one device."""

    manifest: Manifest
    values: Mapping[SplitName, Tensor]

    @property
    def device(self) -> torch.device:
        return self.values["train"].device

    @property
    def bytes(self) -> int:
        return sum(values.untyped_storage().nbytes() for values in self.values.values())


class RowsBuilder:
    """Empty rows for all tokens of `origin`, to be filled shard by shard."""

    def __init__(self, origin: Origin, device: torch.device) -> None:
        self._values = {
            split: torch.empty(origin.wanted(split), origin.d_in, dtype=torch.bfloat16, device=device)
            for split in SPLITS
        }
        self._filled: dict[SplitName, int] = dict.fromkeys(SPLITS, 0)

    def keep(self, split: SplitName, file: str, bits_ND: np.ndarray) -> str:
        """Append a shard. In memory it has no checksum."""
        first = self._filled[split]
        self._values[split][first : first + len(bits_ND)] = torch.from_numpy(bits_ND).view(torch.bfloat16)
        self._filled[split] += len(bits_ND)
        return ""

    def rows(self, manifest: Manifest) -> Rows:
        """The filled rows; the corpus may have had fewer tokens than were asked for."""
        return Rows(manifest, {split: self._values[split][: self._filled[split]] for split in SPLITS})


def read_cache(cache: ActivationCache, device: torch.device) -> Rows:
    """All activations of a finished cache. Raises `UserError` for a damaged one."""
    builder = RowsBuilder(cache.origin, device)
    for split in SPLITS:
        for shard in cache.manifest.splits[split].shards:
            builder.keep(split, shard.file, cache.bits(shard))
    return builder.rows(cache.manifest)


class MemoryActivations(ShardedSource):
    """Activations in memory, as `ShardedSource`. Batches are on the rows' device."""

    def __init__(
        self,
        rows: Rows,
        window_tokens: int = ActivationsConfig.window_tokens,
        prefetch_batches: int = ActivationsConfig.prefetch_batches,
    ) -> None:
        super().__init__(rows.manifest, window_tokens, 0 if rows.device.type == "cuda" else prefetch_batches)
        if not self.scale > 0:
            raise UserError(f"layer={self.origin.layer}: every activation is 0; use another layer")
        self.rows = rows
        self._places: dict[str, tuple[SplitName, int]] = {}  # of each shard: its split, and its first row there
        for split in SPLITS:
            first = 0
            for shard in rows.manifest.splits[split].shards:
                self._places[shard.file] = split, first
                first += shard.tokens

    def makers(self, batches: Iterator[list[Part]], batch_size: int, raw: bool) -> Iterator[Maker]:
        for parts in batches:
            yield partial(self._copy, parts, torch.bfloat16) if raw else partial(self.make, parts)

    def make(self, parts: list[Part]) -> Tensor:
        return self._copy(parts, torch.float32).mul_(float(self.factor))

    def _copy(self, parts: list[Part], dtype: torch.dtype) -> Tensor:
        """The stored values of these parts [B, D]."""
        x_BD = torch.empty(sum(part.tokens for part in parts), self.d_in, dtype=dtype, device=self.rows.device)
        row = 0
        for shard, first, tokens in parts:  # in one piece each, which is faster than by index
            split, start = self._places[shard.file]
            x_BD[row : row + tokens] = self.rows.values[split][start + first : start + first + tokens]
            row += tokens
        return x_BD

    def _rows(self, part: Part) -> np.ndarray:
        first = self._places[part.shard.file][1] + part.first
        return np.arange(first, first + part.tokens)

    def gather(self, batches: Sequence[list[Part]]) -> Tensor:
        """Batches of training tokens, all of one size, as one [S, B, D] like `make`: by index, in two passes."""
        index_N = torch.from_numpy(np.concatenate([self._rows(part) for parts in batches for part in parts]))
        if self.rows.device.type == "cuda":  # the host does not wait
            index_N = index_N.pin_memory().to(self.rows.device, non_blocking=True)
        x_ND = self.rows.values["train"].index_select(0, index_N)
        return scaled(x_ND, float(self.factor)).view(len(batches), -1, self.d_in)

    def bits(self, shard: Shard) -> np.ndarray:
        split, first = self._places[shard.file]
        values_ND = self.rows.values[split][first : first + shard.tokens]
        return values_ND.cpu().view(torch.uint16).numpy()
