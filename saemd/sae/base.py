"""What an SAE's architecture owns. `SAETraining` trains any subclass and asks nothing about which one it is.

To add an architecture: one file with a subclass of `SAE` and its config, one line in `registry`, one YAML in
`conf/sae/`. Shape suffixes: B tokens in a batch, D d_in, F latents. In a stack (`saemd.sae.stack`) every tensor has one
axis more in front, one entry for each SAE; so `objective` and what it calls count axes from the last one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from saemd.sae.batch import WHOLE, Batch
from saemd.sae.rounded import RoundedCopies


@dataclass(frozen=True)
class Progress:
    """Where training stands: at `step` (from 0) of `steps`. The step aims at `l0_factor` times the target L0."""

    step: Any  # int; in a captured step (`saemd.training.stack.captured`) a tensor without dimensions, on the GPU
    steps: int
    l0_factor: Any = 1.0  # of a stack: a number for all, or a tensor [S]


@dataclass(frozen=True)
class Loss:
    """One batch's loss. `total` carries the gradient, unless `grads` holds it; the rest is for logging.

    `fired` [F]: latents active on any token. `grads`: the gradient of every parameter, by name, in a closed form. Of a
    stack, all have its axis in front.
    """

    total: Tensor  # over this device's tokens, as `reconstruction`; L0 and `fired` are the whole batch's (`SAE.batch`)
    reconstruction: Tensor  # mean over tokens of ‖x − x̂‖²
    l0: Tensor  # mean over tokens of the number of active latents
    fired: Tensor
    grads: dict[str, Tensor] | None = None

    def backward(self, sae: nn.Module) -> None:
        """Put the gradients into the parameters' `grad`: those of `grads` themselves, without a copy."""
        if self.grads is None:
            self.total.sum().backward()
            return
        for name, parameter in sae.named_parameters():
            if self.grads[name].dtype != parameter.dtype:
                parameter.grad_dtype = self.grads[name].dtype
            parameter.grad = self.grads[name]


@dataclass
class SAEConfig:
    """The keys that every architecture has; a subclass adds its own."""

    name: str = ""  # a key of saemd.sae.ARCHITECTURES

    def check(self, steps: int, decay_start: int) -> None:
        """Raise `UserError` for a value that no run of `steps` steps, decaying from `decay_start` on, could use."""

    def beyond_twins(self) -> str | None:
        """The setting that only the plain `objective` computes, as key=value; None where fast twins compute all."""


class SAE(nn.Module, ABC):
    """A sparse autoencoder over raw activations.

    W_enc [D, F], W_dec [F, D], b_enc [F] (None where the architecture has none), b_dec [D], all float32. `target_l0` is
    the L0 that training aims at. Inside, inputs are divided by the scalar buffer `scale` (normalised units: mean
    squared norm 1). `encode`, `decode` and `forward` take and give raw units, except that latents are in normalised
    units until `folded()`; every other method works in normalised units.
    """

    Config: ClassVar[type[SAEConfig]]
    saelens: ClassVar[str]  # SAELens's name of the architecture that `folded()` has
    dictionary_learning: ClassVar[str | None] = None  # that library's class for `folded()`; None: it has none
    adam_beta1: ClassVar[float] = 0.0  # of the published training, where the recipe leaves it open

    scale: Tensor
    config: Any  # of the type Config

    def __init__(
        self, d_in: int, d_sae: int, config: Any = None, *, target_l0: float = 1.0, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.d_in, self.d_sae = d_in, d_sae
        self.target_l0: Any = target_l0  # of a stack: a tensor [S]
        self.config = config or self.Config()
        # Stored latent by latent, as W_dec is: gradients from active pairs come that way, and so does Adam's pass.
        self.W_enc = nn.Parameter(zeros(d_sae, d_in).T)
        self.W_dec = nn.Parameter(zeros(d_sae, d_in))
        self.b_enc: nn.Parameter | None = nn.Parameter(torch.zeros(d_sae))
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        self.register_buffer("scale", torch.tensor(float(scale)))
        self.rounded = RoundedCopies()
        self.batch: Batch = WHOLE  # of which a step sees a part where several devices train
        self.add_own()

    def add_own(self) -> None:
        """Add the parameters and buffers that only this architecture has."""

    @abstractmethod
    def latents(self, x_BD: Tensor) -> Tensor:
        """The latents [B, F] that inference gives for x; an inactive one is 0."""

    @abstractmethod
    def objective(self, x_BD: Tensor, at: Progress) -> Loss:
        """The training loss of a batch, by autograd: the plain reference that fast paths are held to."""

    @abstractmethod
    def folded(self) -> SAE:
        """A copy for other tools, with the same reconstructions.

        Its scale is 1, and its decoder rows have unit norm. It may be of another architecture than the SAE in training.
        """

    def target_at(self, at: Progress) -> Any:
        """The L0 that a step aims at; of a stack a tensor [S]."""
        return self.target_l0 * at.l0_factor

    def reconstruct(self, z_BF: Tensor) -> Tensor:
        """x̂ [B, D] of latents [B, F]."""
        return z_BF @ self.W_dec + each_token(self.b_dec)

    def encode(self, x: Tensor) -> Tensor:
        """Latents [..., F] of raw activations [..., D]."""
        return self.latents(x.to(self.W_enc.dtype) / self.scale)

    def decode(self, z: Tensor) -> Tensor:
        """Raw activations [..., D] of latents [..., F]."""
        return self.reconstruct(z) * self.scale

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of raw activations [..., D]."""
        return self.decode(self.encode(x))

    def fill_defaults(self, sample: Callable[[], Tensor]) -> None:
        """Give biases and θ what they have where a start leaves them out; `sample` gives activations [N, D]."""

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """The optimizer's groups; a group without an `lr` of its own has the recipe's."""
        return [{"params": list(self.parameters())}]

    def after_step(self) -> None:
        """What follows an optimizer step, which has already scaled the decoder's rows to unit norm."""

    def figures(self, at: Progress) -> dict[str, Tensor]:
        """What the architecture logs of itself, scalars by name."""
        return {}

    def saelens_config(self) -> dict[str, Any]:
        """Keys of `cfg.json` beside those that all architectures have, or in their place; of an SAE once folded."""
        return {}

    def remarks(self) -> list[str]:
        """What users of an exported SAE should know of it."""
        return []

    @classmethod
    def from_saelens(cls, d_in: int, d_sae: int, config: dict[str, Any]) -> Self:
        """An SAE whose parameters are those of `cfg.json`'s architecture, still to be filled."""
        return cls(d_in, d_sae)

    def renew_rounded(self) -> None:
        """Write the rounded copies of the matrices anew, in their own memory, which a captured step reads."""
        for name, parameter in self.named_parameters():
            if name in self.rounded:
                self.rounded.renew(name, parameter)

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Decoder rows to unit norm (as `dictionary_learning`: divided by norm + machine epsilon)."""
        self.W_dec /= self.W_dec.norm(dim=-1, keepdim=True) + torch.finfo(self.W_dec.dtype).eps


def each_token(vector: Tensor) -> Tensor:
    """A bias or θ [F] as [1, F], a stack's [S, F] as [S, 1, F]: for tensors with an axis of tokens."""
    return vector.unsqueeze(-2)


def zeros(rows: int, columns: int) -> Tensor:
    """Float32; on a CPU in numpy's memory, which has pages of 2 MB: faster where rows are picked anywhere."""
    if torch.get_default_device().type != "cpu":
        return torch.zeros(rows, columns)
    memory = np.empty((rows, columns), np.float32)
    memory.fill(0)  # np.zeros would take ordinary pages
    return torch.from_numpy(memory)
