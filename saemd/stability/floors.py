"""Random floors kept in files: one is computed once for each shape of dictionaries."""

from __future__ import annotations

from pathlib import Path

from saemd.files import DamagedFileError, read_json, write_json
from saemd.progress import bar
from saemd.stability.matching import random_floor

FLOOR_SEED = 0


def floor(folder: Path, d_sae: int, d_in: int) -> float:
    """`random_floor` for this shape, computed once per stability folder."""
    path = folder / "floors" / f"n={d_sae}_d={d_in}.json"
    if (stored := _stored_floor(path)) is not None:
        return stored
    with bar("random floor", total=1) as progress:
        progress.note(f"n={d_sae} d={d_in}")
        mean_cosine = random_floor(d_sae, d_in, FLOOR_SEED)
        progress.advance()
    write_json(path, {"d_sae": d_sae, "d_in": d_in, "seed": FLOOR_SEED, "mean_cosine": mean_cosine})
    return mean_cosine


def _stored_floor(path: Path) -> float | None:
    """The floor in the file `path`; None without a file, or, with a printed line, for a damaged one."""
    if not path.is_file():
        return None
    again = "it is computed again"
    try:
        content = read_json(path, again)
        value = content.get("mean_cosine") if isinstance(content, dict) else None
        if not isinstance(value, float):
            raise DamagedFileError(path, "holds no mean_cosine", again)
        return value
    except DamagedFileError as error:
        print(error)
        return None
