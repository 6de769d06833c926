"""A stack's checkpoint: one file in each member's run directory, as that run alone would have written it.

So a stack that was stopped goes on as another stack, or as runs of their own.
"""

import copy
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saemd.files import replacing, save_torch
from saemd.runs import CHECKPOINT
from saemd.training.checkpoints import SafeCheckpoints, load_whole


class StackCheckpoints(SafeCheckpoints):
    """Lightning's door to the checkpoints of the runs in `folders`, but those whose numbers are in `failed`."""

    def __init__(self, folders: Sequence[Path], failed: Container[int]) -> None:
        self.folders, self.failed = folders, failed

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        for i, folder in enumerate(self.folders):
            if i not in self.failed:
                with replacing(folder / CHECKPOINT) as aside:
                    save_torch(_own(member_checkpoint(checkpoint, i)), aside)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        return stack_checkpoint([load_whole(folder / CHECKPOINT) for folder in self.folders])


def member_checkpoint(checkpoint: dict[str, Any], i: int) -> dict[str, Any]:
    """Member i's part of a stack's checkpoint."""
    prefix = f"members.{i}."
    optimizer, scheduler = checkpoint["optimizer_states"][0]["members"][i]
    state = checkpoint["state_dict"].items()
    own = {**checkpoint, "loops": copy.deepcopy(checkpoint["loops"])}
    _set_stream(own, _stream(checkpoint)["members"][i])
    return {
        **own,
        "state_dict": {name.removeprefix(prefix): value for name, value in state if name.startswith(prefix)},
        "optimizer_states": [optimizer],
        "lr_schedulers": [scheduler],
    }


def stack_checkpoint(checkpoints: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The stack's checkpoint of its members', which all stand at one step."""
    first = checkpoints[0]
    whole = {**first, "loops": copy.deepcopy(first["loops"])}
    _set_stream(whole, {"members": [_stream(checkpoint) for checkpoint in checkpoints]})
    members = [
        (checkpoint["optimizer_states"][0], checkpoint["lr_schedulers"][0]) for checkpoint in checkpoints
    ]  # fmt: skip
    return {
        **whole,
        "state_dict": {
            f"members.{i}.{name}": value
            for i, checkpoint in enumerate(checkpoints)
            for name, value in checkpoint["state_dict"].items()
        },
        "optimizer_states": [{"members": members}],
        "lr_schedulers": [],
    }


def _stream(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The state of the stream of batches, which Lightning keeps among the loops'."""
    return checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]


def _set_stream(checkpoint: dict[str, Any], state: dict[str, Any]) -> None:
    checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"][0] = state


def _own(value: Any) -> Any:
    """The same with tensors in memory of their own: of a view, torch would save the whole stack."""
    if isinstance(value, Tensor):
        return torch.empty_like(value).copy_(value)
    if isinstance(value, dict):
        return {key: _own(part) for key, part in value.items()}
    return [_own(part) for part in value] if isinstance(value, list) else value
