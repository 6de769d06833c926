"""The consensus of finished runs: of which runs one is made, and the folder that holds it.

`saemd.consensus` is the command, which trains it on.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from saemd.errors import bad_value
from saemd.files import read_npz, replacing
from saemd.runs import LATENTS, WEIGHTS, Run
from saemd.sae import load_finite, save_sae
from saemd.stability.consensus import consensus, refuse_others
from saemd.stability.pairs import match_pairs, stored
from saemd.stability.recurrence import Recurrence, recurrence
from saemd.stability.siblings import Pair

SUFFIX = "-consensus"  # of the start's name


@dataclass(frozen=True)
class Made:
    """A consensus in `folder`, of `seeds` seeds. `recurrence` [F]: in how many of the others each latent returned."""

    folder: Path
    seeds: int
    recurrence: np.ndarray


def groups(runs: Sequence[Run], size: int | None, init: str | None, l0: str | None) -> list[list[Run]]:
    """Seeds that differ in nothing else, not in their documents either: `size` each, or all of at least two."""
    by_cell: dict[tuple[str, float, str, str], list[Run]] = {}
    for run in runs:
        if not run.init.endswith(SUFFIX) and init in (None, run.init) and (l0 is None or float(l0) == run.l0):
            key = run.label, run.l0, run.saved["sibling_fingerprint"], run.saved["cache_fingerprint"]
            by_cell.setdefault(key, []).append(run)
    found = []
    for cell in by_cell.values():
        cell.sort(key=lambda run: run.seed)
        each = size or len(cell)
        found += [cell[i : i + each] for i in range(0, len(cell) - each + 1, each)]
    return [group for group in found if size or len(group) > 1]


def make(run_root: Path, group: Sequence[Run], threshold: float, d_sae: int | None = None) -> Made:
    """Write the consensus of these runs, of `d_sae` latents, to a folder below `run_root`; one that is there is read.

    The folder's name has a digest of the runs' weights. Raises `UserError` where a run cannot be matched, or has fewer
    latents.
    """
    if d_sae and d_sae > group[0].d_sae:
        raise bad_value("d_sae", d_sae, f"a consensus has at most as many latents as a seed, here {group[0].d_sae}")
    digest = hashlib.sha256(repr((threshold, d_sae) if d_sae else threshold).encode())
    for run in group:
        digest.update((run.path / WEIGHTS).read_bytes())
    seeds = "-".join(str(run.seed) for run in group)
    folder = run_root / "consensus" / f"{group[0].init}-l0={group[0].l0:g}-{seeds[:60]}-{digest.hexdigest()[:12]}"
    if (folder / LATENTS).is_file():
        (counts,) = read_npz(folder / LATENTS, ("recurrence",), f"remove {folder}, and it is made again")
        return Made(folder.resolve(), len(group), counts)
    saes = [load_finite(run.path) for run in group]
    refuse_others(saes[0])  # before the runs are matched
    fire_rate_SF = np.stack([run.fire_rate for run in group])
    found = consensus(saes, recurrence_of(run_root / "stability", group, threshold), fire_rate_SF, d_sae)
    save_sae(found.sae, folder)
    with replacing(folder / LATENTS) as aside:
        np.savez(aside, recurrence=found.recurrence)
    return Made(folder.resolve(), len(group), found.recurrence)


def recurrence_of(folder: Path, group: Sequence[Run], threshold: float) -> Recurrence:
    """In how many of the other runs each latent returns; comparisons are read from `folder`, or made there."""
    if len(group) == 1:
        none = np.zeros((1, group[0].d_sae), dtype=np.int16)
        return Recurrence([*group], none, np.zeros(1, dtype=np.int16), np.zeros((0, 2), dtype=np.int64))
    pairs = [Pair(a, b) for a, b in combinations(group, 2)]
    for line in match_pairs(folder, pairs):
        raise bad_value("run_root", folder.parent, line)
    comparisons = [(pair, comparison) for pair in pairs if (comparison := stored(folder, pair))]
    assert len(comparisons) == len(pairs)
    return recurrence(comparisons, threshold)
