"""Snapshots: the SAE as it stands at given numbers of tokens, kept and measured in the run's folder while it trains."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as pl
import torch

from saemd.config import Config, snapshot_steps
from saemd.errors import UserError
from saemd.files import remove_partial
from saemd.remote import mirror
from saemd.runs import METRICS, run_dir, snapshot_dir
from saemd.sae.measures import HeldOut, Pooled
from saemd.training.module import SAETraining
from saemd.training.save import save
from saemd.training.stack.module import StackTraining


class Snapshots(pl.Callback):
    """Keeps and measures each SAE in training at the steps of `snapshots`, in its own folder of `configs`.

    It acts before the checkpoint of a step is written. So what a checkpoint has behind it is kept, and a run that goes
    on from an earlier one writes the same snapshot again. It draws no random number and changes no weight.
    """

    def __init__(self, configs: Sequence[Config]) -> None:
        self.configs, self.tokens_at = configs, snapshot_steps(configs[0])

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.global_step == 0:
            self._keep(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._keep(trainer, pl_module)

    def _keep(self, trainer: pl.Trainer, module: SAETraining | StackTraining) -> None:
        step = trainer.global_step
        if step not in self.tokens_at:
            return
        if isinstance(module, StackTraining):
            members = module.running()
            sources = [module.sources[i] for i, _ in members]
        else:
            members, sources = [(0, module)], [None]
        for (i, member), held_out in zip(members, _measure(trainer, [sae for _, sae in members], sources), strict=True):
            config = self.configs[i]
            folder = snapshot_dir(run_dir(config), self.tokens_at[step])
            try:
                _begin(folder)
                save(member, held_out, step, config, folder, {"asked_tokens": self.tokens_at[step]})
            except UserError as error:
                if not isinstance(module, StackTraining) or len(module.running()) == 1:
                    raise
                module.failed[i] = error


@torch.no_grad()
def _measure(trainer: pl.Trainer, members: Sequence[SAETraining], sources: Sequence[str | None]) -> list[HeldOut]:
    """As at the end of training: over all held-out activations of each one's source, read once for all SAEs."""
    pooled = [Pooled(member.sae.d_in, member.sae.d_sae) for member in members]
    data: Any = trainer.datamodule  # type: ignore[attr-defined]  # which `fit` was given
    for batch in data.val_dataloader():
        source, x_BD = batch if isinstance(batch, tuple) else (None, batch)  # a stack's batches name theirs
        x_BD = x_BD.to(members[0].device)
        for sums, member, own in zip(pooled, members, sources, strict=True):
            if own == source:
                sums.update(member.sae, x_BD)
    return [sums.result() for sums in pooled]


def _begin(folder: Path) -> None:
    """Let an earlier snapshot in this folder count as unfinished from here on."""
    if folder.is_dir():
        mirror.remove(folder / METRICS)
        remove_partial(folder)
