"""What the starts share that are made of an MLP's decoder U: their keys, their rules, and the directions themselves."""

from dataclasses import dataclass

from torch import Tensor

from saemd.errors import bad_value
from saemd.sae.starts.base import InitConfig, ModelShape, Sources


@dataclass
class MLPConfig(InitConfig):
    """The keys of a start that is made of an MLP's decoder U."""

    encoder: str = "dual"
    fold_postnorm: bool = False  # multiply U by the post-norm's weight (Gemma-2, Gemma-3): what neurons really write


@dataclass
class MirrorConfig(MLPConfig):
    """W_dec is made of the decoder U of one layer's MLP."""

    offset: int = 0  # layers from the trained one to the MLP's: 0 its own, -1 the one below, 1 the one above


def check_postnorm(config: MLPConfig, model: ModelShape) -> None:
    """Raise `UserError` for a post-norm that the model lacks."""
    if config.fold_postnorm and not model.has_post_norm:
        raise bad_value("init.fold_postnorm", True, "this model has no norm behind its MLP; set it to false")


def check_offset(key: str, offset: int, model: ModelShape) -> None:
    """Raise `UserError` for an offset that leads to no layer."""
    if not 0 <= model.layer + offset < model.n_layers:
        lowest, highest = -model.layer, model.n_layers - 1 - model.layer
        raise bad_value(key, offset, f"from layer={model.layer} the model has layers at {lowest} to {highest}")


def check_neurons(config: MirrorConfig, model: ModelShape, d_sae: int) -> None:
    check_postnorm(config, model)
    check_offset("init.offset", config.offset, model)


def check_mirror(config: MirrorConfig, model: ModelShape, d_sae: int) -> None:
    m = model.mlp_width
    if d_sae != 2 * m:
        raise bad_value("d_sae", d_sae, f"init={config.name} has 2m={2 * m} latents, m={m} the MLP's hidden width")
    check_neurons(config, model, d_sae)


def neurons(config: MLPConfig, offset: int, sources: Sources) -> Tensor:
    """The directions that an MLP's neurons write, as stored, [m, D]; `offset` counts layers from the trained one."""
    U, post_norm_D = sources.mlp_decoder(sources.model.layer + offset if offset else None)
    if config.fold_postnorm and post_norm_D is not None:
        U = U * post_norm_D[:, None]
    return U.T
