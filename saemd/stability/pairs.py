"""Matchings and random floors kept in files: a pair whose weights have not changed is never matched again."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from saemd.errors import UserError
from saemd.files import DamagedFileError, one_line, read_json, read_npz, replacing, write_json
from saemd.packages import sha256_of
from saemd.progress import bar
from saemd.runs import read_weights
from saemd.stability.comparison import Comparison, compare
from saemd.stability.matching import Match, random_floor
from saemd.stability.records import pair_keys, record_name
from saemd.stability.siblings import Pair

FLOOR_SEED = 0


def pair_path(folder: Path, pair: Pair, kind: str = "pairs", ending: str = "npz") -> Path:
    return folder / kind / f"{record_name(pair_keys(pair))}.{ending}"


def stored(folder: Path, pair: Pair) -> Comparison | None:
    """The pair's comparison from its file; None without a file, or where the weights have changed since."""
    path = pair_path(folder, pair)
    if (found := read_comparison(path, pair.a.d_sae, pair.b.d_sae)) is None:
        return None
    comparison, inputs = found
    try:
        was_a, was_b = json.loads(inputs)
        unchanged = _unchanged(pair.a.weights, was_a) and _unchanged(pair.b.weights, was_b)
    except (KeyError, TypeError, ValueError) as error:
        print(f"{path}: is no comparison of two runs ({one_line(error)}), so this pair is matched again")
        return None
    return comparison if unchanged else None


def inputs_of(folder: Path, pair: Pair) -> str | None:
    """What identifies the weights that the pair's file was made from; None without a file."""
    path = pair_path(folder, pair)
    return str(read_npz(path, ("inputs",), "so this pair is matched again")[0]) if path.is_file() else None


def read_comparison(path: Path, d_sae: int, d_sae_b: int) -> tuple[Comparison, str] | None:
    """A comparison and what identifies its inputs, from a file; None without one. A damaged file is named in a line."""
    if not path.is_file():
        return None
    try:
        names = ("inputs", "match_enc", "cos_enc", "match_dec", "cos_dec")
        inputs, *arrays = read_npz(path, names, "so this pair is matched again")
        enc, dec = _match(d_sae, d_sae_b, *arrays[:2]), _match(d_sae, d_sae_b, *arrays[2:])
        return Comparison(enc=enc, dec=dec), str(inputs)
    except DamagedFileError as error:
        print(error)
    except (TypeError, ValueError) as error:
        print(f"{path}: is no comparison of two runs ({one_line(error)}), so this pair is matched again")
    return None


def write_comparison(path: Path, comparison: Comparison, inputs: str) -> None:
    with replacing(path) as aside:
        np.savez_compressed(
            aside,
            cos_enc=comparison.enc.cosine,
            cos_dec=comparison.dec.cosine,
            match_enc=comparison.enc.index.astype(np.int32),
            match_dec=comparison.dec.index.astype(np.int32),
            inputs=np.array(inputs),
        )


def _match(d_sae: int, d_sae_b: int, index: np.ndarray, cosine: np.ndarray) -> Match:
    """Raises `ValueError` where this is no matching of `d_sae` latents with some of `d_sae_b`."""
    is_one_to_one = index.shape == (d_sae,) and len(np.unique(index)) == d_sae
    if not is_one_to_one or index.min() < 0 or index.max() >= d_sae_b:
        raise ValueError(f"no matching of {d_sae} latents")
    if cosine.dtype != np.float32 or cosine.shape != (d_sae,):
        raise ValueError(f"no matching of {d_sae} latents")
    return Match(index=index.astype(np.int64), cosine=cosine)


def match_pairs(folder: Path, pairs: list[Pair], what: str = "matching") -> list[str]:
    """Match each pair whose file is missing or stale and write its file; a line for each pair that cannot be matched.

    One bar over all matchings: at the paper's size each takes up to minutes.
    """
    todo = [pair for pair in pairs if stored(folder, pair) is None]
    broken: list[str] = []
    if not todo:
        return broken
    with bar(what, total=2 * len(todo), unit="matchings") as progress:
        for pair in todo:
            progress.note(record_name(pair_keys(pair)))
            inputs = [_identity(run.weights) for run in (pair.a, pair.b)]
            try:
                comparison = compare(read_weights(pair.a), read_weights(pair.b), done=progress.advance)
            except UserError as error:  # names the run
                broken.append(str(error))
                continue
            write_comparison(pair_path(folder, pair), comparison, json.dumps(inputs))
    return list(dict.fromkeys(broken))  # a run that cannot be compared is in several pairs


def _identity(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns, "sha256": sha256_of(path)}


def _unchanged(path: Path, was: dict[str, Any]) -> bool:
    """Same size and time, or, for a copied folder, same content."""
    now = path.stat()
    if now.st_size != was["bytes"]:
        return False
    return now.st_mtime_ns == was["mtime_ns"] or sha256_of(path) == was["sha256"]


def floor(folder: Path, d_sae: int, d_in: int, d_sae_b: int) -> float:
    """`random_floor` for this shape, computed once per stability folder. A damaged file is named in a printed line."""
    n = str(d_sae) if d_sae == d_sae_b else f"{d_sae},{d_sae_b}"
    path = folder / "floors" / f"n={n}_d={d_in}.json"
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
        progress.note(f"n={n} d={d_in}")
        mean_cosine = random_floor(d_sae, d_in, FLOOR_SEED, d_sae_b)
        progress.advance()
    write_json(path, {"d_sae": d_sae, "d_in": d_in, "seed": FLOOR_SEED, "mean_cosine": mean_cosine})
    return mean_cosine
