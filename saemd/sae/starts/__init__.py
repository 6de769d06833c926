"""How an SAE starts (`INITS`) and, where a start leaves it open, what its encoder is (`ENCODERS`).

One file per family: `drawn` (random), `mirror` and `mlp_drawn` (an MLP's decoder), `data` (activations), `pool` (all
directions that write into the residual stream), `saved` (another SAE). `base` says what a start is and how to add one.
"""

from saemd.sae.starts import data, drawn, mirror, mlp_drawn, pool, saved
from saemd.sae.starts.base import INITS, InitConfig, Initializer, ModelShape, Sources, Start, initializer, unit_rows
from saemd.sae.starts.build import build, check_init
from saemd.sae.starts.encoders import ENCODERS

__all__ = [
    "ENCODERS", "INITS", "InitConfig", "Initializer", "ModelShape", "Sources", "Start", "build", "check_init", "data",
    "drawn", "initializer", "mirror", "mlp_drawn", "pool", "saved", "unit_rows",
]  # fmt: skip
