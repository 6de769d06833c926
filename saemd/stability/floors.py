"""Random floors kept in files: one is computed once for each shape of dictionaries."""

from __future__ import annotations

from pathlib import Path

from saemd.files import DamagedFileError, read_json, write_json
from saemd.progress import bar
from saemd.stability.matching import random_floor

FLOOR_SEED = 0


def floor(folder: Path, d_sae: int, d_in: int) -> float:
    """`random_floor` for this shape, computed once per stability folder. A damaged file is named in a printed line."""
    path = folder / "floors" / f"n={d_sae}_d={d_in}.json"
    if path.is_file():
        again = "it is computed again"
        try:
            content = read_json(path, again)
            if isinstance(content, dict) and isinstance(content.get("mean_cosine"), float):
                return content["mean_cosine"]
            print(DamagedFileError(path, "holds no mean_cosine", again))
        except DamagedFileError as error:
            print(error)
    with bar("random floor", total=1) as progress:
        progress.note(f"n={d_sae} d={d_in}")
        mean_cosine = random_floor(d_sae, d_in, FLOOR_SEED)
        progress.advance()
    write_json(path, {"d_sae": d_sae, "d_in": d_in, "seed": FLOOR_SEED, "mean_cosine": mean_cosine})
    return mean_cosine
