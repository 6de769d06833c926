"""The SAE at step 0: an architecture's parameters, filled by a start and an encoder."""

import torch

from saemd.errors import UserError, bad_value
from saemd.sae.base import SAE, SAEConfig
from saemd.sae.registry import ARCHITECTURES
from saemd.sae.starts import base
from saemd.sae.starts.base import InitConfig, Sources
from saemd.sae.starts.encoders import ENCODERS


def check_init(config: InitConfig) -> None:
    """Raise `UserError` for a start or an encoder that does not exist."""
    if config.name not in base.INITS:
        raise bad_value("init.name", config.name, f"known are {', '.join(base.INITS)}")
    if config.encoder not in ENCODERS:
        raise bad_value("init.encoder", config.encoder, f"known are {', '.join(ENCODERS)}")


@torch.no_grad()
def build(init: InitConfig, architecture: SAEConfig, sources: Sources, *, target_l0: float, scale: float) -> SAE:
    """The SAE at step 0. Raises `UserError` where the start does not fit the architecture or the activations."""
    check_init(init)
    base.INITS[init.name].check(init, sources.model, sources.d_sae)
    sae = ARCHITECTURES[architecture.name](sources.d_in, sources.d_sae, architecture, target_l0=target_l0, scale=scale)
    start = base.INITS[init.name](init, sources)
    if start.W_enc is None:
        start.W_enc = ENCODERS[init.encoder](start.W_dec, sources)
    sae.fill_defaults(sources.sample)
    own = dict(sae.named_parameters())
    for name, value in vars(start).items():
        if value is None:
            continue
        if name not in own:
            raise bad_value("init", init.label, f"gives {name}, which sae={architecture.name} has not")
        if value.shape != own[name].shape:
            raise UserError(
                f"init={init.label}: {name} of shape {list(value.shape)}, where the activations' width and d_sae ask "
                f"for {list(own[name].shape)}; the cache and the model must belong together"
            )
        own[name].copy_(value)
    return sae
