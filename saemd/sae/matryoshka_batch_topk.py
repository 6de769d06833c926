"""The Matryoshka BatchTopK SAE (Bussmann et al., arXiv 2503.17547): nested groups of latents each reconstruct alone.

Shape suffixes: B tokens in a batch, D d_in, F latents.
"""

from dataclasses import dataclass, field
from itertools import accumulate
from math import isclose

from torch import Tensor

from saemd.errors import bad_value
from saemd.sae.base import each_token
from saemd.sae.batch_topk import BatchTopKConfig, BatchTopKSAE


@dataclass
class MatryoshkaBatchTopKConfig(BatchTopKConfig):
    """As BatchTopK, with the groups of latents and their weights in the loss."""

    name: str = "matryoshka_batch_topk"
    group_fractions: list[float] = field(default_factory=lambda: [1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32])
    # null: 1 each, so the losses are summed as in the paper; dictionary_learning divides them by their number, twice
    group_weights: list[float] | None = None

    def check(self, steps: int, decay_start: int) -> None:
        super().check(steps, decay_start)
        if not isclose(sum(self.group_fractions), 1) or min(self.group_fractions) <= 0:
            raise bad_value("sae.group_fractions", self.group_fractions, "use fractions above 0 whose sum is 1")
        if self.group_weights is not None and len(self.group_weights) != len(self.group_fractions):
            remedy = f"give one for each of the {len(self.group_fractions)} groups, or null"
            raise bad_value("sae.group_weights", self.group_weights, remedy)


class MatryoshkaBatchTopKSAE(BatchTopKSAE):
    """BatchTopK, where the first n latents reconstruct x by themselves, for each n at which a group ends."""

    Config = MatryoshkaBatchTopKConfig
    config: MatryoshkaBatchTopKConfig

    def group_sizes(self) -> list[int]:
        """Latents of each group; the last has what rounding leaves."""
        sizes = [int(fraction * self.d_sae) for fraction in self.config.group_fractions[:-1]]
        return [*sizes, self.d_sae - sum(sizes)]

    def errors(self, x_BD: Tensor, z_BF: Tensor) -> list[tuple[float, Tensor]]:
        """Of each group g: w_g, and x − x̂_g, where x̂_g is of all latents up to the group's last."""
        sizes = self.group_sizes()
        parts = [z @ W_dec for z, W_dec in zip(z_BF.split(sizes, -1), self.W_dec.split(sizes, -2), strict=True)]
        x_hats = accumulate(parts, initial=each_token(self.b_dec).expand_as(x_BD))
        errors = [x_BD - x_hat_BD for x_hat_BD in x_hats][1:]
        return list(zip(self.config.group_weights or [1.0] * len(sizes), errors, strict=True))
