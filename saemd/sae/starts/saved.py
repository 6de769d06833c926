"""A start that is another SAE: a run goes on from it under another recipe, on other text, or with another target."""

from dataclasses import dataclass
from pathlib import Path

from saemd.errors import UserError, bad_value
from saemd.files import DamagedFileError
from saemd.sae.export import sae_shape
from saemd.sae.starts.base import InitConfig, ModelShape, Sources, Start, initializer

GIVEN = {"W_enc", "W_dec", "b_enc", "b_dec", "threshold"}  # what a start can give


@dataclass
class SavedConfig(InitConfig):
    """The SAE of a finished run or an export."""

    sae: str = ""  # its folder


def check_saved(config: SavedConfig, model: ModelShape, d_sae: int) -> None:
    if not config.sae:
        raise UserError("init.sae=…: name the folder of the SAE to start from, a finished run's or an export's")
    try:
        shape = sae_shape(Path(config.sae))
    except DamagedFileError as error:
        raise bad_value("init.sae", config.sae, f"no SAE can be read there ({error.path.name} {error.what})") from error
    if shape[0] != model.d_model:
        raise bad_value(
            "init.sae", config.sae, f"it has d_in={shape[0]}, the language model's width is {model.d_model}"
        )
    if shape[1] != d_sae:
        raise bad_value("d_sae", d_sae, f"init.sae={config.sae} has {shape[1]} latents; write d_sae={shape[1]}")


@initializer(SavedConfig, check_saved)
def saved(config: SavedConfig, sources: Sources) -> Start:
    """All parameters of the SAE in the folder `init.sae`, in this run's normalised units.

    Raises `UserError` for an architecture with others than W_enc, W_dec, b_enc, b_dec and θ.
    """
    sae = sources.saved_sae(config.sae)
    own = {name: parameter.detach() for name, parameter in sae.named_parameters()}
    if others := own.keys() - GIVEN:
        raise bad_value("init.sae", config.sae, f"its architecture also has {', '.join(sorted(others))}; use another")
    matrices = {name: own.pop(name) for name in ("W_enc", "W_dec")}
    return Start(**matrices, **{name: value / sources.scale for name, value in own.items()})
