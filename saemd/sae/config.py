"""What `conf/init/` may say: one dataclass per initialisation that has keys of its own."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class InitConfig:
    """The start of an SAE. `saemd.sae.init` holds the functions these names stand for."""

    name: str = MISSING  # a key of saemd.sae.INITS
    label: str = MISSING  # names the runs' folder, init=<label>
    encoder: str = MISSING  # W_enc from W_dec: tied, gain or dual (saemd.sae.ENCODERS)
    threshold: float = 0.001  # θ of every latent (dictionary_learning; Gemma Scope, appendix)


@dataclass
class MirrorConfig(InitConfig):
    """W_dec = [U, −U] of the layer's MLP."""

    fold_postnorm: bool = False  # multiply U by the post-norm's weight (Gemma-2, Gemma-3): what neurons really write
