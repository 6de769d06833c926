"""Sparse autoencoders: architectures, their fast twins, starts, loading and saving. Knows torch alone."""

from saemd.sae.base import SAE, Loss, Progress, SAEConfig
from saemd.sae.export import load_finite, load_sae, sae_shape, save_sae
from saemd.sae.jumprelu import JumpReLUConfig, JumpReLUSAE
from saemd.sae.registry import ARCHITECTURES
from saemd.sae.starts import ENCODERS, INITS, InitConfig, ModelShape, Sources, Start, build, initializer

__all__ = [
    "ARCHITECTURES", "ENCODERS", "INITS", "SAE", "InitConfig", "JumpReLUConfig", "JumpReLUSAE", "Loss", "ModelShape",
    "Progress", "SAEConfig", "Sources", "Start", "build", "initializer", "load_finite", "load_sae", "sae_shape",
    "save_sae",
]  # fmt: skip
