"""The JumpReLU SAE: model, loss, initialisations, export. Knows torch alone."""

from saemd.sae.export import load_sae, save_sae
from saemd.sae.init import ENCODERS, INITS, Sources, build
from saemd.sae.loss import Loss, Penalty, dense_loss
from saemd.sae.model import JumpReLUSAE
from saemd.sae.sparse import auto_loss

__all__ = [
    "ENCODERS", "INITS", "JumpReLUSAE", "Loss", "Penalty", "Sources", "auto_loss", "build", "dense_loss", "load_sae",
    "save_sae",
]  # fmt: skip
