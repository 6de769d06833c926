"""The cache as a LightningDataModule: a stateful training stream, and held-out batches for validation."""

from __future__ import annotations

from collections.abc import Iterator

import lightning as pl
import torch
from torch import Tensor

from saemd.activations.cache import ActivationCache
from saemd.activations.stream import ActivationStream


class HeldoutBatches:
    """All held-out tokens once per iteration, in a fixed order; the last batch may be smaller."""

    def __init__(self, cache: ActivationCache, batch_size: int) -> None:
        self.cache, self.batch_size = cache, batch_size

    def __len__(self) -> int:
        return -(-self.cache.n_heldout // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        return self.cache.heldout_batches(self.batch_size)


class ActivationDataModule(pl.LightningDataModule):
    """Batches [B, D] in normalised units; arguments as `ActivationStream`'s."""

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
        super().__init__()
        self.stream = ActivationStream(cache, batch_size, tokens, seed, window_tokens, prefetch_batches, dtype)
        self.held_out = HeldoutBatches(cache, batch_size)

    def train_dataloader(self) -> ActivationStream:
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        self.stream.device = device if device.type == "cuda" else None
        return self.stream

    def val_dataloader(self) -> HeldoutBatches:
        return self.held_out
