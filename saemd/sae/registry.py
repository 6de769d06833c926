"""The architectures by name: as configurations have it, and as saved SAEs do."""

from collections.abc import Mapping

from saemd.errors import bad_value
from saemd.sae.base import SAE, SAEConfig
from saemd.sae.batch_topk import BatchTopKSAE
from saemd.sae.gated import GatedSAE
from saemd.sae.jumprelu import JumpReLUSAE
from saemd.sae.matryoshka_batch_topk import MatryoshkaBatchTopKSAE
from saemd.sae.topk import TopKSAE

ARCHITECTURES: Mapping[str, type[SAE]] = {
    "jumprelu": JumpReLUSAE,
    "topk": TopKSAE,
    "batch_topk": BatchTopKSAE,
    "matryoshka_batch_topk": MatryoshkaBatchTopKSAE,
    "gated": GatedSAE,
}
LOADED_AS = {sae.saelens: sae for sae in (JumpReLUSAE, TopKSAE, GatedSAE)}  # by the architecture that cfg.json names


def check_architecture(config: SAEConfig) -> None:
    """Raise `UserError` for an architecture that does not exist."""
    if config.name not in ARCHITECTURES:
        raise bad_value("sae.name", config.name, f"known are {', '.join(ARCHITECTURES)}")
