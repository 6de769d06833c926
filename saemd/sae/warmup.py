"""Linear warm-ups that are given in steps, and shortened to a fraction of a run that is too short for them.

Also the coefficient of a sparsity term, which has such a warm-up, and which may follow the L0 that training shows.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saemd.errors import bad_value
from saemd.sae.base import Progress, SAEConfig


def warmup_length(config: Any, key: str, steps: int) -> int:
    """Steps of the warm-up: min(`<key>_warmup_steps`, `<key>_warmup_fraction` · all steps)."""
    return min(getattr(config, f"{key}_warmup_steps"), int(getattr(config, f"{key}_warmup_fraction") * steps))


def check_warmup(group: str, config: Any, key: str) -> None:
    """Raise `UserError` where `<key>_warmup_steps` or `<key>_warmup_fraction` is out of range."""
    name, fraction = f"{group}.{key}_warmup_steps", f"{group}.{key}_warmup_fraction"
    if not 0 <= getattr(config, f"{key}_warmup_steps") < math.inf:
        raise bad_value(name, getattr(config, f"{key}_warmup_steps"), "use 0 or more")
    if not 0 <= getattr(config, f"{key}_warmup_fraction") <= 1:
        raise bad_value(fraction, getattr(config, f"{key}_warmup_fraction"), "use a fraction from 0 to 1")


def refuse_long_warmup(group: str, config: Any, key: str, steps: int, decay_start: int) -> None:
    """Raise `UserError` where the warm-up would outlast the step at which the learning rate starts to decay."""
    warmup = warmup_length(config, key, steps)
    if warmup and warmup >= decay_start:
        raise bad_value(
            f"{group}.{key}_warmup_steps",
            getattr(config, f"{key}_warmup_steps"),
            f"a run of {steps} steps starts to decay at step {decay_start}; "
            f"lower it, or set {group}.{key}_warmup_fraction (0.05 is usual), or train longer",
        )


@dataclass
class PenaltyConfig(SAEConfig):
    """The keys of architectures whose loss has a sparsity term with a coefficient."""

    sparsity_coefficient: float = 1.0  # of the sparsity term, after its warm-up
    sparsity_warmup_steps: int = 5000
    sparsity_warmup_fraction: float = 0.1

    def coefficient(self, at: Progress) -> Any:
        """λ at a step: it rises from 0 in the first step (as `dictionary_learning`'s `get_sparsity_warmup_fn`).

        A number, or a tensor where the step is one.
        """
        warmup = warmup_length(self, "sparsity", at.steps)
        share = at.step / warmup if warmup else 1.0
        return self.sparsity_coefficient * (share.clamp(max=1.0) if isinstance(share, Tensor) else min(share, 1.0))

    def check(self, steps: int, decay_start: int) -> None:
        if not 0 <= self.sparsity_coefficient < math.inf:
            raise bad_value("sae.sparsity_coefficient", self.sparsity_coefficient, "use 0 or more")
        check_warmup("sae", self, "sparsity")
        refuse_long_warmup("sae", self, "sparsity", steps, decay_start)


@torch.no_grad()
def seek_(seeking: Tensor, rate: float, l0: Tensor, target: Any) -> None:
    """Multiply `seeking`, the factor of the coefficient, by exp(rate · (L0/target − 1)), the exponent at most ±rate.

    Of a stack, `seeking`, `l0` and `target` have the shape [S].
    """
    seeking.mul_((rate * (l0 / target - 1).clamp(-1, 1)).exp())


def check_seek(rate: float) -> None:
    if not 0 <= rate < math.inf:
        raise bad_value("sae.seek_l0", rate, "use 0 (the coefficient stays) or more")
