"""In how many other seeds does each latent return? Over all runs of a cell (one start, one L0), from its pairs.

A latent returns where `Comparison.shared` says so: same partner, both cosines above the threshold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saemd.files import replacing, write_json
from saemd.runs import Run
from saemd.stability.comparison import Comparison
from saemd.stability.records import cell_name, label, pair_keys
from saemd.stability.siblings import Pair

Matched = tuple[Pair, Comparison]


@dataclass(frozen=True)
class Recurrence:
    """The latents of S runs with F latents each."""

    runs: list[Run]
    returns: np.ndarray  # int16 [S, F], in how many of the other runs the latent returns
    compared: np.ndarray  # int16 [S], with how many other runs each was compared
    links: np.ndarray  # int64 [L, 2], shared pairs of latents; latent i of run s is s · F + i


def recurrence(matched: Sequence[Matched], threshold: float) -> Recurrence:
    """Count for the runs of these pairs, which belong to one cell. Runs keep the order in which they appear."""
    runs = list({run.path: run for pair, _ in matched for run in (pair.a, pair.b)}.values())
    place = {run.path: i for i, run in enumerate(runs)}
    returns = np.zeros((len(runs), runs[0].d_sae), dtype=np.int16)
    compared = np.zeros(len(runs), dtype=np.int16)
    links = []
    for pair, comparison in matched:
        a, b = place[pair.a.path], place[pair.b.path]
        of_a = np.flatnonzero(comparison.shared(threshold))
        of_b = comparison.dec.index[of_a]
        returns[a, of_a] += 1
        returns[b, of_b] += 1
        compared[[a, b]] += 1
        links.append(np.stack([a * runs[0].d_sae + of_a, b * runs[0].d_sae + of_b], axis=1))
    return Recurrence(runs, returns, compared, np.concatenate(links))


def distribution(found: Recurrence, keep: np.ndarray | None = None) -> dict[str, Any]:
    """Shares of the latents `keep` (bool [S, F]; default all) by the other seeds in which they return.

    `in_all`, `in_half` (at least half of the others), `in_none`; `share_by_count`: in exactly 0, 1, 2, … others. All
    None or empty where `keep` is empty.
    """
    keep = np.ones(found.returns.shape, dtype=bool) if keep is None else keep
    counts = found.returns[keep]
    others = np.broadcast_to(found.compared[:, None], keep.shape)[keep]
    if not len(counts):
        return {"in_all": None, "in_half": None, "in_none": None, "share_by_count": []}
    by_count = np.bincount(counts, minlength=int(found.compared.max()) + 1) / len(counts)
    return {
        "in_all": float((counts == others).mean()),
        "in_half": float((2 * counts >= others).mean()),
        "in_none": float((counts == 0).mean()),
        "share_by_count": by_count.tolist(),
    }


def write_recurrence(folder: Path, matched: Sequence[Matched], threshold: float) -> list[dict[str, Any]]:
    """`recurrence.json`, one entry per cell, and `recurrence/<cell>.npz` with `returns` and `alive` per latent."""
    cells: dict[str, list[Matched]] = {}
    for pair, comparison in matched:
        cells.setdefault(cell_name(pair_keys(pair)), []).append((pair, comparison))
    entries = []
    for name, members in cells.items():
        found, keys = recurrence(members, threshold), pair_keys(members[0][0])
        alive = np.stack([run.alive for run in found.runs])
        with replacing(folder / "recurrence" / f"{name}.npz") as aside:
            np.savez_compressed(
                aside,
                returns=found.returns,
                compared=found.compared,
                alive=alive,
                runs=np.array([run.path.resolve().relative_to(run.run_root).as_posix() for run in found.runs]),
            )
        of_alive = {f"{key}_alive": value for key, value in distribution(found, alive).items()}
        entries.append(
            {"label": label(keys), "l0": keys["l0"], "runs": len(found.runs), "shared_threshold": threshold}
            | distribution(found)
            | of_alive
        )
    write_json(folder / "recurrence.json", entries)
    return entries
