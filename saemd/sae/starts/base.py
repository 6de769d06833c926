"""What a start is, what it may draw on, and the registry of all starts (`INITS`).

A start is a pure function of its configuration and its sources, registered by `@initializer`. To add one: a function in
a file of this package (with a dataclass where it has keys of its own) and a YAML in `conf/init/`. A new file is
imported in `saemd.sae.starts`.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saemd.errors import bad_value
from saemd.sae.base import SAE

SHARED_SEED = 2**32 - 1  # of the generator that all seeds share: a seed that hardly anyone uses


@dataclass
class InitConfig:
    """The keys that every start has; a start may add its own in a subclass."""

    name: str = ""  # a key of INITS
    label: str = ""  # names the runs' folder, init=<label>
    encoder: str = "tied"  # W_enc from W_dec where the start gives no encoder: a key of ENCODERS


@dataclass
class DrawnConfig(InitConfig):
    """The keys of a start that is drawn at random."""

    shared: bool = False  # true: every seed has the same draw, so that seeds differ in the order of the data alone


@dataclass
class Start:
    """The weights at step 0, in normalised units.

    What is left out: W_enc is `init.encoder` of W_dec; biases and θ are the architecture's own.
    """

    W_dec: Tensor  # [F, D]
    W_enc: Tensor | None = None  # [D, F]
    b_enc: Tensor | None = None  # [F]
    b_dec: Tensor | None = None  # [D]
    threshold: Tensor | None = None  # [F]


@dataclass(frozen=True)
class ModelShape:
    """What is known before the language model or an activation is loaded."""

    d_model: int
    mlp_width: int  # m
    has_post_norm: bool  # behind the MLP, as in Gemma-2
    n_layers: int
    layer: int  # whose activations are trained on, from 0
    tokens: int  # training activations of an epoch


@dataclass(frozen=True)
class Sources:
    """What a start may draw on. The callables read when called, so nothing unneeded is loaded.

    Layers count from 0; None is the layer whose activations are trained on.
    """

    d_in: int
    d_sae: int
    model: ModelShape
    sample: Callable[[], Tensor]  # activations [N, D], normalised units; the same for every seed
    data_points: Callable[[int, int], Tensor]  # n, seed → n different activations without their mean, [n, D]
    mlp_decoder: Callable[[int | None], tuple[Tensor, Tensor | None]]  # U [D, m], and the post-norm's weight [D]
    attention_output: Callable[[int | None], Tensor]  # [D, heads · head width]: the directions that attention writes
    token_embeddings: Callable[[], Tensor]  # [V, D], as stored
    saved_sae: Callable[[str], SAE]  # of a run's or an export's folder, for raw activations
    scale: float  # raw activations divided by it are in normalised units
    generator: torch.Generator  # the seed's own (init_seed)
    shared_generator: torch.Generator  # the same for every seed

    def draw(self, config: DrawnConfig) -> torch.Generator:
        """The generator that `init.shared` asks for."""
        return self.shared_generator if config.shared else self.generator


Rule = Callable[[Any, ModelShape, int], None]  # config, model, d_sae; raises UserError


@dataclass(frozen=True)
class Initializer:
    """A start's function, its configuration, and the rule that its model and width must keep."""

    function: Callable[[Any, Sources], Start]
    Config: type[InitConfig]
    check: Rule

    def __call__(self, config: InitConfig, sources: Sources) -> Start:
        return self.function(config, sources)


INITS: Mapping[str, Initializer] = {}


def initializer(
    Config: type[InitConfig] = InitConfig, check: Rule = lambda config, model, d_sae: None
) -> Callable[[Callable[[Any, Sources], Start]], Initializer]:
    """Register the function below it under its own name."""

    def register(function: Callable[[Any, Sources], Start]) -> Initializer:
        assert isinstance(INITS, dict)
        INITS[function.__name__] = Initializer(function, Config, check)
        return INITS[function.__name__]

    return register


def unit_rows(W: Tensor) -> Tensor:
    """Rows scaled to norm 1."""
    return W / W.norm(dim=1, keepdim=True)


def mirrored(rows: Tensor) -> Tensor:
    """[R, −R] of rows [k, D]: latent i and latent i + k point opposite ways."""
    return torch.cat([rows, -rows])


def random_directions(n: int, d: int, generator: torch.Generator) -> Tensor:
    """`n` directions drawn uniformly from the sphere, [n, d]."""
    return unit_rows(torch.randn(n, d, generator=generator))


def check_even(config: InitConfig, d_sae: int) -> None:
    """Raise `UserError` for a width that [R, −R] cannot have."""
    if d_sae % 2:
        raise bad_value("d_sae", d_sae, f"init={config.name} consists of rows and their opposites; use an even number")


def digest(weights: Tensor) -> str:
    """sha256 of a tensor's float32 values, as `config.yaml` has it of the start."""
    return hashlib.sha256(weights.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
