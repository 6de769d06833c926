"""A sparsity coefficient that follows the L0 which training shows, for losses that have no target of their own."""

import math
from typing import Any

import torch
from torch import Tensor

from saemd.errors import bad_value


@torch.no_grad()
def seek_(seeking: Tensor, rate: float, l0: Tensor, target: Any) -> None:
    """Multiply `seeking`, the factor of the coefficient, by exp(rate · (L0/target − 1)), the exponent at most ±rate.

    Of a stack, `seeking`, `l0` and `target` have the shape [S].
    """
    seeking.mul_((rate * (l0 / target - 1).clamp(-1, 1)).exp())


def check_seek(rate: float) -> None:
    if not 0 <= rate < math.inf:
        raise bad_value("sae.seek_l0", rate, "use 0 (the coefficient stays) or more")
