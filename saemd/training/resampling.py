"""Dead latents start anew: Bricken et al. 2023 ("Towards Monosemanticity", neuron resampling), for every architecture.

A latent that stays silent has no gradient and never returns by itself. Shape suffixes: B tokens in a batch, D d_in,
F latents, K of them that are dead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as pl
import numpy as np
import torch
from torch import Tensor

from saemd.config import Config
from saemd.sae import SAE
from saemd.sae.batch import WHOLE, Batch
from saemd.training.module import SAETraining
from saemd.training.optimizer import SAEAdam
from saemd.training.schedules import Schedule
from saemd.training.stack.module import StackTraining

ENCODER_NORM = 0.5  # of a latent that starts anew, as a multiple of the living latents' mean


def is_due(schedule: Schedule, steps_made: int) -> bool:
    """Whether dead latents start anew after so many steps."""
    every = schedule.recipe.resample_steps
    if not every or steps_made % every:
        return False
    moves = schedule.decoder_moves(steps_made) and schedule.encoder_moves(steps_made)
    return moves and steps_made < int(schedule.recipe.resample_until * schedule.steps)


def resample_silent(
    sae: SAE, optimizer: SAEAdam, last_fired_F: Tensor, x_BD: Tensor, steps_made: int, seed: int, batch: Batch = WHOLE
) -> None:
    """Resample the latents that were silent for `resample_steps` steps, and let them count as active now."""
    dead_F = last_fired_F < steps_made - optimizer.recipe.resample_steps
    anew_F = resample(sae, optimizer, dead_F, x_BD, (seed, steps_made), batch)
    last_fired_F.masked_fill_(anew_F, steps_made)


@torch.no_grad()
def resample(
    sae: SAE, optimizer: SAEAdam, dead_F: Tensor, x_BD: Tensor, seed: tuple[int, int], batch: Batch = WHOLE
) -> Tensor:
    """Point the latents of `dead_F` along errors of the batch, drawn with a chance that grows as ‖error‖⁴.

    `x_BD` are this device's tokens of it, and all devices draw alike. Each latent takes a token of its own; where fewer
    tokens have an error, the other dead latents wait for the next time.
    W_dec's row and W_enc's column take the direction of x − x̂ of the token drawn, W_enc's with half the mean norm of
    the living latents. Every other weight of the latent becomes the living ones' median, Adam's second moment their
    mean. Returns the latents that started anew (bool [F]).
    """
    none_F = torch.zeros_like(dead_F)
    if not 0 < int(dead_F.sum()) < len(dead_F):
        return none_F
    x_BD = x_BD.float()
    error_BD = x_BD - sae.reconstruct(sae.latents(x_BD))
    chance_B = batch.joined(error_BD.double().pow(2).sum(-1).pow(2)).cpu().numpy()
    total = chance_B.sum()
    if not 0 < total < np.inf:  # a diverged SAE is reported at the next logged step
        return none_F
    rng, dead, tokens = np.random.default_rng(seed), dead_F.nonzero()[:, 0].cpu().numpy(), np.count_nonzero(chance_B)
    if len(dead) > tokens:
        dead = np.sort(rng.choice(dead, tokens, replace=False))
    drawn = rng.choice(len(chance_B), len(dead), replace=False, p=chance_B / total)
    anew_F = none_F.index_fill(0, torch.from_numpy(dead).to(dead_F.device), True)
    directions_KD = torch.nn.functional.normalize(_drawn_rows(error_BD, drawn, batch), dim=1)
    alive_F = ~dead_F
    norm = sae.W_enc[:, alive_F].norm(dim=0).mean()
    anew = {"W_dec": directions_KD, "W_enc": directions_KD * norm * ENCODER_NORM}
    for name, parameter in sae.named_parameters():
        if name == "b_dec":
            continue
        weights = _by_latent(name, parameter)
        weights[anew_F] = anew[name] if name in anew else weights[alive_F].median()
        for key, moment in optimizer.state_of(name).items():
            if key != "step":
                moments = _by_latent(name, moment)
                moments[anew_F] = moments[alive_F].mean() if key == "square" else 0.0
    return anew_F


def _drawn_rows(error_BD: Tensor, drawn: np.ndarray, batch: Batch) -> Tensor:
    """The errors of the tokens with these numbers in the whole batch [K, D]: each comes from the device that has it."""
    device, row = np.divmod(drawn, len(error_BD))
    is_own = torch.from_numpy(device == batch.rank).to(error_BD.device)
    return batch.sum(torch.where(is_own[:, None], error_BD[torch.from_numpy(row).to(error_BD.device)], 0.0))


def _by_latent(name: str, tensor: Tensor) -> Tensor:
    """A parameter, or a moment of it, with the latents along its first axis."""
    return tensor.T if name == "W_enc" else tensor


class Resampling(pl.Callback):
    """Lets dead latents of each SAE in training, whose jobs are `configs`, start anew every `resample_steps` steps.

    It acts before the checkpoint of a step is written, and what it draws depends on the seed and the step alone: a run
    that was stopped ends with the same weights.
    """

    def __init__(self, configs: Sequence[Config]) -> None:
        self.configs = configs

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step, is_stack = trainer.global_step, isinstance(pl_module, StackTraining)
        # also those that have failed, of which the first device alone may know: each step here needs all devices
        members: list[SAETraining] = pl_module.all_members() if is_stack else [pl_module]
        due = [(i, member) for i, member in enumerate(members) if is_due(member.schedule, step)]
        for i, member in due:
            x_BD, seed = batch[i] if is_stack else batch, self.configs[i].data_seed
            resample_silent(member.sae, member.optimizer, member.last_fired, x_BD, step, seed, pl_module.sae.batch)
        if due:
            pl_module.sae.renew_rounded()
