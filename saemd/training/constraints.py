"""What a recipe does to the weights besides Adam: the encoder's decay, frozen matrices, rows held near their start.

Shape suffixes: D d_in, F latents. A stack's tensors have one axis more in front.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from saemd.sae.fused import scalar
from saemd.training.schedules import Schedule


class Constraints(NamedTuple):
    """The constraints of one step as tensors without dimensions, or [S] of a stack; None where no SAE has this one."""

    shrink: Tensor | None = None  # factor of W_enc: 1 − decay · learning rate
    decoder_moves: Tensor | None = None  # bool: whether W_dec is updated
    encoder_moves: Tensor | None = None  # bool: whether W_enc is updated
    cosine: Tensor | None = None  # least cosine of W_dec's rows with their start
    start: Tensor | None = None  # those starts [F, D], of unit norm


class ConstraintTable:
    """The constraints of every step of a stack, on one device, so that a step copies nothing to it."""

    def __init__(self, schedules: Sequence[Schedule], start_SFD: Tensor, steps: int) -> None:
        """`start_SFD`: W_dec at step 0 of all SAEs, whose `schedules` have `steps` steps."""
        recipes, device = [schedule.recipe for schedule in schedules], start_SFD.device
        self._shrink = self._decoder_moves = self._encoder_moves = None  # [steps, S]
        self._cosine = self._start_SFD = None
        if any(recipe.encoder_decay for recipe in recipes):
            rows = [[shrink(schedule, step) for schedule in schedules] for step in range(steps)]
            self._shrink = torch.tensor(rows, dtype=torch.float32, device=device)
        if any(recipe.freeze_decoder_after < 1 for recipe in recipes):
            rows = [[schedule.decoder_moves(step) for schedule in schedules] for step in range(steps)]
            self._decoder_moves = torch.tensor(rows, device=device)
        if any(recipe.freeze_encoder_after < 1 for recipe in recipes):
            rows = [[schedule.encoder_moves(step) for schedule in schedules] for step in range(steps)]
            self._encoder_moves = torch.tensor(rows, device=device)
        if any(recipe.decoder_cosine > -1 for recipe in recipes):
            least = [r.decoder_cosine if r.decoder_cosine > -1 else -2.0 for r in recipes]  # -2: free, also by rounding
            self._cosine = torch.tensor(least, device=device)
            self._start_SFD = unit_starts(start_SFD)

    def at(self, step: Tensor) -> Constraints:
        """Those of the step whose number lies on the device."""
        tables = (self._shrink, self._decoder_moves, self._encoder_moves)
        shrinks, decoder_moves, encoder_moves = (
            table if table is None else table.index_select(0, step.view(1))[0] for table in tables
        )
        return Constraints(shrinks, decoder_moves, encoder_moves, self._cosine, self._start_SFD)


def constraints_of(schedule: Schedule, step: int, lr: float, start_FD: Tensor | None, like: Tensor) -> Constraints:
    """The constraints of one SAE alone, made where `like` is. `start_FD` has unit rows; None: they are not held."""
    recipe = schedule.recipe
    return Constraints(
        scalar(1 - schedule.encoder_decay(step) * lr, like) if recipe.encoder_decay else None,
        torch.full((), schedule.decoder_moves(step), device=like.device) if recipe.freeze_decoder_after < 1 else None,
        torch.full((), schedule.encoder_moves(step), device=like.device) if recipe.freeze_encoder_after < 1 else None,
        None if start_FD is None else scalar(recipe.decoder_cosine, like),
        start_FD,
    )


def shrink(schedule: Schedule, step: int) -> float:
    """The factor of W_enc in a step: 1 − decay · learning rate."""
    return 1 - schedule.encoder_decay(step) * (schedule.recipe.lr * schedule.lr(step))


def unit_starts(start_FD: Tensor) -> Tensor:
    return torch.nn.functional.normalize(start_FD.detach(), dim=-1)


def held(rows_FD: Tensor, start_FD: Tensor, cosine: float | Tensor) -> Tensor:
    """The unit rows, each of which below `cosine` with its unit start is replaced by the nearest unit row at `cosine`.

    That row lies in the plane of the two: cosine · start + √(1 − cosine²) · the row's direction across its start.
    """
    along_F1 = (rows_FD * start_FD).sum(-1, keepdim=True)
    across_FD = rows_FD - along_F1 * start_FD
    across_FD = across_FD / across_FD.pow(2).sum(-1, keepdim=True).sqrt().clamp(min=1e-12)
    nearest_FD = cosine * start_FD + (1 - cosine**2) ** 0.5 * across_FD
    return torch.where(along_F1 < cosine, nearest_FD, rows_FD)
