"""A run's `last.ckpt`: Lightning's checkpoint, written aside and renamed, and read without running what it may hold."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from saemd.files import DamagedFileError, one_line, replacing, save_torch
from saemd.runs import CHECKPOINT
from saemd.training.module import SAETraining

_KEYS = {"global_step": int, "state_dict": dict, "loops": dict, "optimizer_states": list, "lr_schedulers": list}
_REASON_CHARACTERS = 120  # of torch's own text, which goes on to say what may have happened
_REMEDY = "remove it, and this run starts again"


class SafeCheckpoints(CheckpointIO):
    """Lightning's door to checkpoint files: a kill while one is written leaves the one before."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with replacing(Path(path)) as aside:
            save_torch(checkpoint, aside)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        return load_whole(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        raise AssertionError("nothing removes a run's checkpoint")


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


def load_whole(path: Path) -> dict[str, Any]:
    """As `load_plain`, and every byte is compared with the checksums in the file, which torch leaves out."""
    checkpoint = load_plain(path)
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # of a damaged file: anything that the zip's reader may raise
        raise DamagedFileError(path, f"is damaged ({one_line(error)[:_REASON_CHARACTERS]})", _REMEDY) from error
    if damaged:
        raise DamagedFileError(path, f"is damaged ({damaged} differs from its checksum)", _REMEDY)
    return checkpoint


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
    for key, expected in _KEYS.items():
        if not isinstance(checkpoint.get(key), expected):
            raise DamagedFileError(path, f"is no checkpoint of a run (no {key})", _REMEDY)
    return checkpoint


def _refuse_misfit(path: Path, checkpoint: dict[str, Any], module: SAETraining) -> None:
    """Raises `DamagedFileError` where the checkpoint's tensors are not those of `module`, as of another d_sae."""
    saved, own = checkpoint["state_dict"], module.state_dict()
    for name in own.keys() | saved.keys():
        shapes = [tuple(state[name].shape) if name in state else "none" for state in (saved, own)]
        if shapes[0] != shapes[1]:
            what = f"does not fit this run ({name} of shape {shapes[0]}, the run's is {shapes[1]})"
            raise DamagedFileError(path, what, _REMEDY)
    if not 0 < checkpoint["global_step"] <= module.schedule.steps:
        what = f"stands at step {checkpoint['global_step']}, this run has {module.schedule.steps}"
        raise DamagedFileError(path, what, _REMEDY)
