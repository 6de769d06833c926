"""Lightning's Trainer as every run uses it."""

import logging
from collections.abc import Sequence
from pathlib import Path

import lightning as pl
import torch.distributed as dist
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import CheckpointIO

from saemd.config import Config
from saemd.ranks import Ranks
from saemd.training.callbacks import ProgressBar, TimedCheckpoint
from saemd.training.devices import Follower, Together, training_device
from saemd.training.module import SAETraining
from saemd.training.stack.module import StackTraining

ALONE = Ranks()


def fit(
    module: SAETraining | StackTraining, data: pl.LightningDataModule, config: Config, description: str,
    checkpoint: Path, has_begun: bool, at_end: Sequence[pl.Callback], checkpoints: CheckpointIO,
    logger: Logger | None = None, before_checkpoint: Sequence[pl.Callback] = (), ranks: Ranks = ALONE,
    everywhere: Sequence[pl.Callback] = (),
) -> None:  # fmt: skip
    """Train to the last step, from `checkpoint` on where it has begun, and measure on held-out activations.

    Behind each step, `before_checkpoint` acts before a checkpoint is written, and `at_end` after that of the last step.
    Of several processes the first one alone calls these, measures and saves; all call `everywhere`, which acts behind
    `before_checkpoint`.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # which devices it found, and advertisements
    steps, is_first = module.schedule.steps, ranks.rank == 0
    follower = None if is_first else Follower()
    callbacks: list[pl.Callback] = [Together()] if ranks.world > 1 else []
    if follower:
        callbacks += [follower, *everywhere]
    else:
        callbacks += [
            ProgressBar(description, steps, config.batch_size),
            *before_checkpoint,
            *everywhere,
            TimedCheckpoint(checkpoint, config.checkpoint_minutes),
            *at_end,
        ]
    device = training_device(config)
    trainer = pl.Trainer(
        accelerator=config.accelerator,
        devices=1 if device.type == "cpu" or ranks.world == 1 else [device.index],
        max_epochs=1,
        max_steps=steps,  # given outright: Lightning's estimate would restart a resumed run at its first batch
        logger=logger or False,
        callbacks=callbacks,
        limit_val_batches=None if is_first else 0,
        plugins=[LightningEnvironment(), checkpoints],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint if has_begun else None)
        if trainer.received_sigterm:  # in the last step
            raise KeyboardInterrupt
        assert trainer.global_step == steps, f"{trainer.global_step} of {steps} steps"
        if module.held_out is None and is_first:
            trainer.validate(module, datamodule=data, verbose=False)  # the checkpoint was that of the last step
        if ranks.world > 1:
            dist.barrier()  # until the first process has written the run's files
    except SystemExit:  # Lightning's, of SIGTERM with exit code 0 and of Ctrl-C with 1
        raise KeyboardInterrupt from None
    except RuntimeError:  # the first process has stopped, and its connection is closed
        if follower and follower.is_asked:
            raise KeyboardInterrupt from None
        raise
