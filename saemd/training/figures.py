"""What is logged of a training batch."""

import torch
from torch import Tensor

from saemd.sae import SAE, Loss, Progress
from saemd.sae.measures import row_cosines

DEAD_AFTER_TOKENS = 10_000_000  # a latent counts as dead in training logs when silent this long, or a tenth of the run


@torch.no_grad()
def batch_figures(
    sae: SAE, loss: Loss, x_BD: Tensor, at: Progress, *,
    mean_D: Tensor, start_dec: Tensor, start_enc: Tensor, last_fired: Tensor,
) -> tuple[list[str], Tensor]:  # fmt: skip
    """Names and values [n] (of a stack [S, n]) of a batch's figures, before its update; nothing waits for a GPU.

    FVU is against the training activations' mean. `last_fired` [F]: the step in which each latent was last active.
    """
    silent = min(DEAD_AFTER_TOKENS // sae.batch.size(x_BD.shape[-2]), at.steps // 10)
    reconstruction = sae.batch.mean(loss.reconstruction)
    fvu = reconstruction / sae.batch.mean((x_BD - mean_D).pow(2).sum(-1).mean(-1))
    figures = {
        "train/loss": sae.batch.mean(loss.total),
        "train/reconstruction": reconstruction,
        "train/l0": loss.l0,
        "train/fvu": fvu,
        "train/explained_variance": 1 - fvu,
        "train/dead_fraction": (last_fired < at.step - silent).float().mean(-1),
        "train/drift_dec": row_cosines(sae.W_dec, start_dec).mean(-1),
        "train/drift_enc": row_cosines(sae.W_enc.mT, start_enc.mT).mean(-1),
        **{f"train/{name}": value for name, value in sae.figures(at).items()},
    }
    values = torch.broadcast_tensors(*(value.double() for value in figures.values()))
    return list(figures), torch.stack(values, dim=-1)
