"""dictionary_learning 0.1.0's JumpReluTrainer, out of its published wheel: checked by sha256, not installed.

Importing it needs torch, tqdm and einops. The package's root also imports nnsight, for a class that only collects
activations, so an empty module stands in for it.
"""

from __future__ import annotations

import hashlib
import sys
import types
from pathlib import Path
from typing import Any

from saemd.errors import UserError, bad_value

NAME, VERSION = "dictionary-learning", "0.1.0"
SHA256 = "211116f9cc6fde643ea447f11da1c1ea9d0174dd9460e2031ae95b2724622ca5"


def jump_relu_trainer(cache_root: Path) -> Any:
    """The class, its wheel fetched into `cache_root` where it is not there yet."""
    from saemd.packages import Package, fetch_package  # needs what fetching needs

    return _import([fetch_package(Package(NAME, VERSION, SHA256), cache_root)])


def jump_relu_trainer_from(folder: Path) -> Any:
    """The class, on a machine without network, out of a folder of pure wheels that `pip download --no-deps` filled:

    pip download --no-deps --dest <folder> dictionary-learning==0.1.0 einops tqdm
    """
    wheels = sorted(folder.glob("*.whl"))
    ours = [wheel for wheel in wheels if wheel.name.startswith(f"dictionary_learning-{VERSION}-")]
    if not ours:
        raise bad_value("wheels", folder, f"pip download --no-deps --dest {folder} {NAME}=={VERSION} einops tqdm")
    digest = hashlib.sha256(ours[0].read_bytes()).hexdigest()
    if digest != SHA256:
        raise UserError(f"{ours[0]}: sha256 {digest} instead of {SHA256}; do not use this file")
    return _import(wheels)


def _import(wheels: list[Path]) -> Any:
    sys.path += [str(wheel) for wheel in wheels]
    if "nnsight" not in sys.modules:
        nnsight = types.ModuleType("nnsight")
        nnsight.LanguageModel = object  # type: ignore[attr-defined]
        sys.modules["nnsight"] = nnsight
    try:
        from dictionary_learning.trainers.jumprelu import JumpReluTrainer  # type: ignore[import-not-found]
    except ModuleNotFoundError as error:
        raise UserError(f"{NAME} imports {error.name}, which is not here: pip install einops tqdm") from error
    return JumpReluTrainer
