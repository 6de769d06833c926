"""Activations as a LightningDataModule: a stateful training stream, and held-out batches for validation."""

from collections.abc import Iterable
from typing import Any

import lightning as pl

from saemd.activations.joined import JoinedStream
from saemd.activations.streams.stream import BatchStream


class ActivationDataModule(pl.LightningDataModule):
    """The stream and the held-out batches of a `Source`, or those of a stack's sources (`saemd.activations.joined`)."""

    def __init__(self, stream: BatchStream | JoinedStream, heldout: Iterable[Any]) -> None:
        super().__init__()
        self.stream, self.heldout = stream, heldout

    def train_dataloader(self) -> BatchStream | JoinedStream:
        if self.trainer:
            self.stream.send_to(self.trainer.strategy.root_device)
        return self.stream

    def val_dataloader(self) -> Iterable[Any]:
        return self.heldout
