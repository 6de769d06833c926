"""A source of activations as a LightningDataModule: a stateful training stream, and held-out batches for validation."""

from __future__ import annotations

from collections.abc import Iterable

import lightning as pl
import torch
from torch import Tensor

from saemd.activations.source import Source
from saemd.activations.stream import BatchStream


class ActivationDataModule(pl.LightningDataModule):
    """Batches [B, D] in normalised units; see `Source.stream` and `Source.heldout`."""

    def __init__(self, source: Source, batch_size: int, tokens: int, seed: int, rank: int = 0, world: int = 1) -> None:
        super().__init__()
        self.stream = source.stream(batch_size, tokens, seed, rank, world)
        self.heldout = source.heldout(batch_size)

    def train_dataloader(self) -> BatchStream:
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        self.stream.device = device if device.type == "cuda" else None
        return self.stream

    def val_dataloader(self) -> Iterable[Tensor]:
        return self.heldout
