"""Training logs under exactly the names that the dashboard reads."""

from typing import Any

import lightning as pl
import pytest
import torch
from lightning.pytorch.loggers.logger import DummyLogger

from saemd.logging import names
from saemd.sae import JumpReLUSAE
from saemd.training.config import RecipeConfig
from saemd.training.module import SAETraining
from tests.logging.trained import TRAIN


class Keeps(DummyLogger):
    """Remembers the rows it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None, **_: Any) -> None:
        self.rows.append(dict(metrics))


@pytest.mark.slow
def test_training_logs_the_names_of_the_dashboard() -> None:
    torch.manual_seed(0)
    sae = JumpReLUSAE(8, 16)
    torch.nn.init.normal_(sae.W_dec)
    sae.normalise_decoder()
    module = SAETraining(sae, RecipeConfig(), steps=20, mean_D=torch.zeros(8))
    logger = Keeps()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=20,
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches = [torch.randn(32, 8) / 8**0.5 for _ in range(20)]
    trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    trained = [row for row in logger.rows if names.TOKENS in row]
    assert trained
    assert all(set(row) == {names.TOKENS, *TRAIN} for row in trained)
