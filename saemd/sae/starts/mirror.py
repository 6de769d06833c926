"""The paper's start, W_dec = [U, −U] of an MLP's decoder U; and the same rotated, or disturbed by noise."""

import math
from dataclasses import dataclass

import torch

from saemd.errors import bad_value
from saemd.sae.starts.base import (
    DrawnConfig,
    ModelShape,
    Sources,
    Start,
    initializer,
    mirrored,
    random_directions,
    unit_rows,
)
from saemd.sae.starts.neurons import MirrorConfig, check_mirror, neurons


@initializer(MirrorConfig, check_mirror)
def mirror(config: MirrorConfig, sources: Sources) -> Start:
    """W_dec = [U, −U] with unit rows (the paper's SAE-MD): latent i and latent i + m point opposite ways.

    `fold_postnorm` multiplies by the weight of the norm behind the MLP, so that rows point where neurons really write.
    Nothing is drawn: every seed starts from the same weights.
    """
    return Start(mirrored(unit_rows(neurons(config, config.offset, sources))))


@dataclass
class RotatedConfig(MirrorConfig, DrawnConfig):
    """`mirror`, rotated."""


@initializer(RotatedConfig, check_mirror)
def mirror_rotated(config: RotatedConfig, sources: Sources) -> Start:
    """`mirror`, all rows rotated by one random rotation: their angles to each other stay, their directions do not.

    The rotation is drawn from the Haar measure: Q of a Gaussian matrix's QR decomposition with R's diagonal positive.
    """
    d = sources.d_in
    Q, R = torch.linalg.qr(torch.randn(d, d, generator=sources.draw(config), dtype=torch.float64))
    rotation = (Q * R.diagonal().sign()).float()
    return Start(mirrored(unit_rows(neurons(config, config.offset, sources) @ rotation)))


@dataclass
class NoiseConfig(MirrorConfig):
    """`mirror`, disturbed by another draw for each seed."""

    sigma: float = 0.5  # length of the noise beside rows of length 1: two seeds have a cosine of 1 / (1 + sigma²)


def check_noise(config: NoiseConfig, model: ModelShape, d_sae: int) -> None:
    check_mirror(config, model, d_sae)
    if not 0 <= config.sigma < math.inf:
        raise bad_value("init.sigma", config.sigma, "use a number from 0; 1 starts two seeds at a cosine of 0.5")


@initializer(NoiseConfig, check_noise)
def mirror_noise(config: NoiseConfig, sources: Sources) -> Start:
    """`mirror` plus σ times a random unit vector for every row, as unit rows; each seed draws its own vectors.

    Random vectors are nearly orthogonal to all rows, so that a row has a cosine of 1/√(1 + σ²) with its row of
    `mirror`, and of 1/(1 + σ²) with the same row of another seed.
    """
    rows = mirrored(unit_rows(neurons(config, config.offset, sources)))
    return Start(unit_rows(rows + config.sigma * random_directions(len(rows), sources.d_in, sources.generator)))
