"""The files of an SAE in training, at its end or in a snapshot: weights, figures of each latent, `metrics.json`."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from saemd.activations.config import HOOKS
from saemd.checksums import with_checksum
from saemd.config import Config
from saemd.errors import bad_value
from saemd.files import replacing, write_text
from saemd.runs import LATENTS, METRICS
from saemd.sae import save_sae
from saemd.sae.export import not_finite
from saemd.sae.measures import HeldOut, row_cosines
from saemd.training.module import SAETraining


def save(
    module: SAETraining, held_out: HeldOut, steps: int, config: Config, folder: Path, more: Mapping[str, float]
) -> None:
    """Write the SAE as it stands behind `steps` steps to `folder`; `metrics.json`, with `more` in it, comes last.

    Raises `UserError` where weights or loss are not finite.
    """
    sae = module.sae
    if not math.isfinite(held_out.loss) or not_finite(sae.state_dict()):
        remedy = "training has ended in NaN or infinite weights; lower it, and train in another run_root"
        raise bad_value("recipe.lr", config.recipe.lr, remedy)
    with torch.no_grad():
        cos_dec = row_cosines(sae.W_dec, module.start_dec).cpu()
        cos_enc = row_cosines(sae.W_enc.T, module.start_enc.T).cpu()
    metadata = {
        "model_name": config.lm.name,
        "hook_name": f"blocks.{config.layer}.hook_{HOOKS[config.activations.hook]}",
        "hook_layer": config.layer,
        "context_size": config.activations.context_length,
        "trained_with": "saemd",
    }
    save_sae(sae, folder, metadata)
    latents: dict[str, Any] = {
        "alive": held_out.alive.numpy(),
        "fire_rate": held_out.fire_rate.numpy(),
        "ablation_fvu": held_out.ablation_fvu.numpy(),
        "cos_dec_start": cos_dec.numpy(),
        "cos_enc_start": cos_enc.numpy(),
    }
    with replacing(folder / LATENTS) as aside:
        np.savez(aside, **latents)
    metrics = {
        "tokens": steps * config.batch_size,
        "steps": steps,
        "target_l0": config.l0,
        "l0": held_out.l0,
        "fvu": held_out.fvu,
        "explained_variance": held_out.explained_variance,
        "loss": held_out.loss,
        "dead_fraction": held_out.dead_fraction,
        "drift_dec": cos_dec.mean().item(),
        "drift_enc": cos_enc.mean().item(),
        "held_out_tokens": held_out.tokens,
        **more,
    }
    write_text(folder / METRICS, json.dumps(with_checksum(metrics), indent=2) + "\n")
