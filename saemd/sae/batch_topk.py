"""The BatchTopK SAE (Bussmann et al., arXiv 2412.06410): a batch keeps its k · B largest latents, k = `l0`.

For single tokens, at inference, a threshold takes the batch's place, estimated while training. Shape suffixes:
B tokens in a batch, D d_in, F latents.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saemd.errors import bad_value
from saemd.sae.base import SAE, Progress
from saemd.sae.batch import WHOLE
from saemd.sae.jumprelu import JumpReLUSAE
from saemd.sae.topk import TopKConfig, TopKSAE, largest


@dataclass
class BatchTopKConfig(TopKConfig):
    """As TopK, and how the threshold is estimated: the running mean of each batch's smallest active latent."""

    name: str = "batch_topk"
    threshold_beta: float = 0.99  # what a step keeps of the mean; dictionary_learning: 0.999, too slow for 1,000 steps
    threshold_start_steps: int = 1000  # batches before are left out; in short runs at most the fraction
    threshold_start_fraction: float = 0.1

    def check(self, steps: int, decay_start: int) -> None:
        super().check(steps, decay_start)
        for key in ("threshold_beta", "threshold_start_fraction"):
            if not 0 <= getattr(self, key) < 1:
                raise bad_value(f"sae.{key}", getattr(self, key), "use a number from 0 to below 1")
        if self.threshold_start_steps < 0:
            raise bad_value("sae.threshold_start_steps", self.threshold_start_steps, "use 0 or more")


class BatchTopKSAE(TopKSAE):
    """Training keeps the k · B largest of ReLU((x − b_dec) W_enc + b_enc), inference all that are above `threshold`."""

    Config = BatchTopKConfig
    saelens, dictionary_learning = "jumprelu", "JumpReluAutoEncoder"
    config: BatchTopKConfig
    threshold: Tensor

    def add_own(self) -> None:
        super().add_own()
        self.register_buffer("threshold", torch.tensor(-1.0))  # below 0: not estimated yet

    def sparsify(self, acts_BF: Tensor, k: Any = None) -> Tensor:
        """The k · B largest of the batch in training; without k those of `acts_BF` alone, k = `target_l0`."""
        batch, k = (WHOLE, self.target_l0) if k is None else (self.batch, k)
        count = (k if isinstance(k, Tensor) else int(k)) * batch.size(acts_BF.shape[-2])
        least = batch.largest(acts_BF, count)
        if least is None:
            return largest(acts_BF.flatten(-2), count).view_as(acts_BF)
        return torch.where(acts_BF >= least.unsqueeze(-1).unsqueeze(-1), acts_BF, 0.0)

    def latents(self, x_BD: Tensor) -> Tensor:
        acts_BF = self.activations(x_BD)
        return acts_BF * (acts_BF > self.threshold) if self.threshold >= 0 else self.sparsify(acts_BF)

    def observe(self, z_BF: Tensor, fired_F: Tensor, at: Progress) -> None:
        """Also let `threshold` follow the smallest active latent of each batch."""
        super().observe(z_BF, fired_F, at)
        config = self.config
        if at.step > min(config.threshold_start_steps, int(config.threshold_start_fraction * at.steps)):
            smallest = self.batch.least(torch.where(z_BF > 0, z_BF, torch.inf).flatten(-2).amin(-1))
            smallest = torch.where(smallest.isinf(), 0.0, smallest)
            mean = config.threshold_beta * self.threshold + (1 - config.threshold_beta) * smallest
            self.threshold.copy_(torch.where(self.threshold < 0, smallest, mean))

    def figures(self, at: Progress) -> dict[str, Tensor]:
        return {"threshold_q50": self.threshold}

    @torch.no_grad()
    def folded(self) -> SAE:
        """A JumpReLU SAE with one threshold; with s the scale: (b_enc − b_dec W_enc) · s, b_dec · s, θ · s."""
        copy = JumpReLUSAE(self.d_in, self.d_sae)
        assert copy.b_enc is not None
        copy.W_enc.copy_(self.W_enc)
        copy.W_dec.copy_(self.W_dec)
        copy.b_enc.copy_((self.get_parameter("b_enc") - self.b_dec @ self.W_enc) * self.scale)
        copy.b_dec.copy_(self.b_dec * self.scale)
        copy.threshold.fill_((self.threshold * self.scale).clamp(min=0))
        return copy
