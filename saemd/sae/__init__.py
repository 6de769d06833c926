"""The JumpReLU SAE: model, loss, initialisations, export. Knows torch alone."""

from saemd.sae.choice import LossFunction, make_loss
from saemd.sae.export import load_sae, save_sae
from saemd.sae.init import ENCODERS, INITS, Sources, build
from saemd.sae.loss import Loss, Penalty, dense_loss
from saemd.sae.model import JumpReLUSAE

__all__ = [
    "ENCODERS", "INITS", "JumpReLUSAE", "Loss", "LossFunction", "Penalty", "Sources", "build", "dense_loss", "load_sae",
    "make_loss", "save_sae",
]  # fmt: skip
