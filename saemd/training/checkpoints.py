"""`last.ckpt`: every run's own, the same whether it trains alone or together with others.

So a group that was stopped may go on in another grouping, or one by one.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from saemd.files import DamagedFileError, one_line, replacing, save_torch
from saemd.runs import CHECKPOINT
from saemd.training.module import SAETraining
from saemd.training.together import Together

_KEYS = {"global_step": int, "state_dict": dict, "loops": dict, "optimizer_states": list, "lr_schedulers": list}
_REASON_CHARACTERS = 120  # of torch's own text, which goes on to say what may have happened
_REMEDY = "remove it, and this run starts again"


def step_of(folder: Path, module: SAETraining | None = None) -> int:
    """Steps behind a run's checkpoint; 0 where there is none. The tensors are not read.

    Raises `DamagedFileError` for a checkpoint that cannot be gone on from, as one that does not fit `module`.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return 0
    checkpoint = load_plain(path, mmap=True)
    if module:
        _refuse_misfit(path, checkpoint, module)
    return checkpoint["global_step"]


def load_plain(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """A checkpoint of tensors and plain values, on the CPU. A file that holds anything else is refused unopened.

    For a pickle may run whatever code its writer liked, and a run directory may come from anywhere. Raises
    `DamagedFileError` for such a file, a truncated one, and one that is no checkpoint.
    """
    try:
        with open(path, "rb"):  # torch's own error for a missing right to read does not say so
            checkpoint = torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)
    except pickle.UnpicklingError as error:
        what = "holds more than tensors and plain values, and could run code, so it is not opened"
        raise DamagedFileError(path, what, _REMEDY) from error
    except Exception as error:  # of a damaged file: anything, from the pickle's reader or the zip's
        raise DamagedFileError(path, f"is damaged ({one_line(error)[:_REASON_CHARACTERS]})", _REMEDY) from error
    if not isinstance(checkpoint, dict):
        raise DamagedFileError(path, "is no checkpoint of a run", _REMEDY)
    for key, kind in _KEYS.items():
        if not isinstance(checkpoint.get(key), kind):
            raise DamagedFileError(path, f"is no checkpoint of a run (no {key})", _REMEDY)
    return checkpoint


class RunCheckpoints(CheckpointIO):
    """Saves `Together`'s checkpoint as one file in each member's folder, and loads it from there, whatever the path.

    All files are written aside before the first is renamed: a kill leaves the ones before, all of the same step. A
    member whose file cannot be written fails alone.
    """

    def __init__(self, together: Together, folders: dict[SAETraining, Path]) -> None:
        self.together, self.folders = together, folders

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        parts = split(checkpoint, len(self.together.members))
        with ExitStack() as renames:  # closes with what was last entered: the first member's is renamed first
            for member, part in reversed(list(zip(self.together.members, parts, strict=True))):
                self.together.turn(member, _write, part, self.folders[member] / CHECKPOINT, renames)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        return join([load_plain(self.folders[member] / CHECKPOINT) for member in self.together.members])

    def remove_checkpoint(self, path: Any) -> None:
        raise AssertionError("nothing removes a run's checkpoint")


def _write(checkpoint: dict[str, Any], path: Path, renames: ExitStack) -> None:
    """Write aside; `renames` renames when it closes. Raises `UserError` where it cannot be written."""
    with ExitStack() as own:
        save_torch(checkpoint, own.enter_context(replacing(path)))
        renames.push(own.pop_all())


def _refuse_misfit(path: Path, checkpoint: dict[str, Any], module: SAETraining) -> None:
    """Raises `DamagedFileError` where the checkpoint's tensors are not those of `module`, as of another d_sae."""
    there, own = checkpoint["state_dict"], module.state_dict()
    for name in own.keys() | there.keys():
        shapes = [tuple(state[name].shape) if name in state else "none" for state in (there, own)]
        if shapes[0] != shapes[1]:
            what = f"does not fit this run ({name} of shape {shapes[0]}, the run's is {shapes[1]})"
            raise DamagedFileError(path, what, _REMEDY)
    if not 0 < checkpoint["global_step"] <= module.schedules.steps:
        what = f"stands at step {checkpoint['global_step']}, this run has {module.schedules.steps}"
        raise DamagedFileError(path, what, _REMEDY)


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
