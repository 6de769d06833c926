"""A finished activation cache on disk, read without the language model or the corpus: the usual `Source`."""

from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Self

import numpy as np
from torch import Tensor

from saemd.activations.config import ActivationsConfig
from saemd.activations.disk import shards
from saemd.activations.disk.batch import BatchPlan, readers
from saemd.activations.disk.manifest import Manifest, Shard, read_manifest
from saemd.activations.disk.order import Part
from saemd.activations.disk.sharded import ShardedSource
from saemd.activations.disk.shards import ShardFile, disk_bytes
from saemd.activations.streams.stream import Maker
from saemd.errors import UserError

_OPEN_SHARDS = 64  # files kept open: those of the current windows
_ANNOUNCED_BYTES = 32_000_000  # announced to the disk before they are read
_MOST_ANNOUNCED = 32  # batches, which keep their shards open


class ActivationCache(ShardedSource):
    """Activations on disk, as `ShardedSource`.

    The stream's memory is that of its batches, whatever the window. What the disk reads early waits in the system's
    page cache.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        verify: bool,
        window_tokens: int = ActivationsConfig.window_tokens,
        prefetch_batches: int = ActivationsConfig.prefetch_batches,
    ) -> None:
        super().__init__(manifest, window_tokens, prefetch_batches)
        self.path, self.verify = path, verify
        self._files = lru_cache(_OPEN_SHARDS)(partial(_open_shard, path, self.d_in, verify))

    @classmethod
    def open(cls, path: Path | str, verify: bool = False, **reading: int) -> Self:
        """Read the manifest and check every shard's size. `reading` is `window_tokens` and `prefetch_batches`.

        The first time that a process reads a shard, it checks it for NaN and Inf, with `verify` for its checksum too.
        Raises `UserError` for an unfinished cache, and for a shard that is missing, truncated, corrupt or foreign.
        """
        path = Path(path)
        manifest = read_manifest(path)
        if manifest.fingerprint != manifest.origin.fingerprint:
            raise UserError(f"{path}: the manifest contradicts its fingerprint; delete it and write the cache again")
        cache = cls(path, manifest, verify, **reading)
        if not cache.scale > 0:
            raise UserError(f"{path}: every cached activation is 0; delete it and write the cache of another layer")
        cache.check_shards()
        return cache

    def check_shards(self) -> None:
        """Raise `UserError` where a shard is missing, or of another size."""
        for split in self.manifest.splits.values():
            for shard in split.shards:
                shards.check_size(self.path / shard.file, shard.tokens, self.d_in)

    def opened(self, shard: Shard) -> ShardFile:
        """The shard, open for reading."""
        return self._files(shard)

    def makers(self, batches: Iterator[list[Part]], batch_size: int, raw: bool) -> Iterator[Maker]:
        announced = 1 + min(_ANNOUNCED_BYTES // disk_bytes(batch_size, self.d_in), _MOST_ANNOUNCED)
        return readers(map(self.plan, batches), None if raw else self.factor, announced)

    def make(self, parts: list[Part]) -> Tensor:
        return self.plan(parts).read(self.factor)

    def plan(self, parts: list[Part]) -> BatchPlan:
        """The batch of these parts. Nothing is read yet."""
        return BatchPlan([(self.opened(shard), first, tokens) for shard, first, tokens in parts])

    def bits(self, shard: Shard) -> np.ndarray:
        """A whole shard's activations as bfloat16 bits [N, D], checked."""
        bits_ND = np.empty((shard.tokens, self.d_in), dtype=np.uint16)
        file = self.opened(shard)
        file.check()
        file.read(0, bits_ND)
        return bits_ND


def _open_shard(path: Path, d_in: int, verify: bool, shard: Shard) -> ShardFile:
    return ShardFile(path / shard.file, shard.tokens, d_in, shard.sha256 if verify else None)
