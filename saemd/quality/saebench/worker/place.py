"""The working directory of an evaluation, in which SAEBench finds local data sets and the model under hub names."""

import os
from pathlib import Path


def enter(place: Path, model: Path, name: str, data: str | None) -> None:
    """Make `place` the working directory: each seed keeps its own activations and probes.

    `load_dataset` and `from_pretrained` look there first, so the copies of hub data sets in `data`, and the model under
    its name, are linked there.
    """
    place.mkdir(exist_ok=True)
    os.chdir(place)
    for path in Path(".").iterdir():
        if path.is_symlink():
            path.unlink()
    Path(name).symlink_to(model)
    for path in sorted(Path(data).iterdir()) if data else []:
        Path(path.name).symlink_to(path.resolve())


def link_copy(copy: Path, place: Path) -> None:
    """Link the user's `copy`, where there is one, to the place where SAEBench looks for it."""
    if copy.exists() and not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(copy.absolute())
