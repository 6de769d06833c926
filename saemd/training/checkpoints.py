"""`last.ckpt`: every run's own, the same whether it trains alone or together with others.

So a group that was stopped may go on in another grouping, or one by one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from saemd.training.module import SAETraining
from saemd.training.together import Together

CHECKPOINT = "last.ckpt"


def step_of(folder: Path) -> int:
    """Steps behind a run's checkpoint; 0 where there is none. The tensors are not read."""
    path = folder / CHECKPOINT
    if not path.is_file():
        return 0
    return torch.load(path, map_location="cpu", mmap=True, weights_only=False)["global_step"]


class RunCheckpoints(CheckpointIO):
    """Saves `Together`'s checkpoint as one file in each member's folder, and loads it from there, whatever the path.

    All files are written aside before the first is renamed: a kill leaves the ones before, all of the same step.
    """

    def __init__(self, together: Together, folders: dict[SAETraining, Path]) -> None:
        self.together, self.folders = together, folders

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        parts = split(checkpoint, len(self.together.members))
        renames = []
        for member, part in zip(self.together.members, parts, strict=True):
            if member not in self.together.failed:
                final = self.folders[member] / CHECKPOINT
                aside = final.with_name(f".{CHECKPOINT}.partial")
                torch.save(part, aside)
                renames.append((aside, final))
        for aside, final in renames:
            os.replace(aside, final)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        folders = [self.folders[member] for member in self.together.members]
        return join([torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=False) for folder in folders])

    def remove_checkpoint(self, path: Any) -> None:
        raise AssertionError("nothing removes a run's checkpoint")


def split(checkpoint: dict[str, Any], members: int) -> list[dict[str, Any]]:
    """`Together`'s checkpoint as those of its members, each as Lightning writes it for a run alone; no copies."""
    (optimizers,), (schedulers,) = checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
    parts = []
    for i in range(members):
        prefix = _prefix(i)
        state = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
        own = {
            "state_dict": state,
            "optimizer_states": [optimizers["each"][i]],
            "lr_schedulers": [schedulers["each"][i]],
        }
        parts.append({**checkpoint, **own})
    return parts


def join(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The inverse of `split`, for members at the same step."""
    assert len({part["global_step"] for part in parts}) == 1, "members at different steps cannot share a stream"
    states = {_prefix(i) + k: v for i, part in enumerate(parts) for k, v in part["state_dict"].items()}
    return {
        **parts[0],
        "state_dict": states,
        "optimizer_states": [{"each": [part["optimizer_states"][0] for part in parts]}],
        "lr_schedulers": [{"each": [part["lr_schedulers"][0] for part in parts]}],
    }


def _prefix(member: int) -> str:
    return f"each.{member}."
