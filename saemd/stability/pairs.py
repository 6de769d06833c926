"""Comparisons kept in files: a pair whose weights have not changed is never matched again, nor a random floor."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from saemd.errors import UserError
from saemd.packages import sha256_of
from saemd.progress import bar
from saemd.stability.comparison import Comparison, compare
from saemd.stability.matching import Match, random_floor
from saemd.stability.runs import Pair, read_weights
from saemd.stability.store import replacing, write_json

FLOOR_SEED = 0


def pair_path(folder: Path, pair: Pair) -> Path:
    return folder / "pairs" / f"{pair.name}.npz"


def stored(folder: Path, pair: Pair) -> Comparison | None:
    """The pair's comparison from its file; None where there is none, or it was made from other weights."""
    path = pair_path(folder, pair)
    if not path.is_file():
        return None
    try:
        with np.load(path) as file:
            inputs = json.loads(str(file["inputs"]))
            enc = Match(index=file["match_enc"].astype(np.int64), cosine=file["cos_enc"])
            dec = Match(index=file["match_dec"].astype(np.int64), cosine=file["cos_dec"])
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        print(f"{path.name}: cannot be read ({error}), so this pair is matched again")
        return None
    unchanged = all(_unchanged(run.weights, was) for run, was in zip((pair.a, pair.b), inputs, strict=True))
    return Comparison(enc=enc, dec=dec) if unchanged else None


def match_pairs(folder: Path, pairs: list[Pair]) -> list[str]:
    """Match each pair whose file is missing or stale and write its file; a line for each pair that cannot be matched.

    One bar over all matchings: at the paper's size each takes up to minutes.
    """
    todo = [pair for pair in pairs if stored(folder, pair) is None]
    broken: list[str] = []
    if not todo:
        return broken
    with bar("matching", total=2 * len(todo), unit="matchings") as progress:
        for pair in todo:
            progress.note(pair.name)
            inputs = [_identity(run.weights) for run in (pair.a, pair.b)]
            try:
                found = compare(read_weights(pair.a), read_weights(pair.b), done=progress.advance)
            except UserError as error:
                broken.append(f"{pair.name}: {error}")
                continue
            with replacing(pair_path(folder, pair)) as file:
                np.savez_compressed(
                    file,
                    cos_enc=found.enc.cosine,
                    cos_dec=found.dec.cosine,
                    match_enc=found.enc.index.astype(np.int32),
                    match_dec=found.dec.index.astype(np.int32),
                    inputs=np.array(json.dumps(inputs)),
                )
    return broken


def floor(folder: Path, d_sae: int, d_in: int) -> float:
    """`random_floor` for this shape, computed once per stability folder."""
    path = folder / "floors" / f"n={d_sae}_d={d_in}.json"
    if not path.is_file():
        with bar("random floor", total=1) as progress:
            progress.note(f"n={d_sae} d={d_in}")
            mean_cosine = random_floor(d_sae, d_in, FLOOR_SEED)
            progress.advance()
        write_json(path, {"d_sae": d_sae, "d_in": d_in, "seed": FLOOR_SEED, "mean_cosine": mean_cosine})
    return json.loads(path.read_text())["mean_cosine"]


def _identity(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns, "sha256": sha256_of(path)}


def _unchanged(path: Path, was: dict[str, Any]) -> bool:
    """Same size and time, or, for a copied folder, same content."""
    now = path.stat()
    if now.st_size != was["bytes"]:
        return False
    return now.st_mtime_ns == was["mtime_ns"] or sha256_of(path) == was["sha256"]
