"""Pairs summed up: one row per cell (one start, one L0), with intervals over seeds."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from saemd.stability.records import Record, label, unit_names

DRAWS = 2000
LEVEL = 0.95
AVERAGED = (
    "mean_cos_dec", "mean_cos_enc", "same_match", "shared", "shared_cosines", "shared_ablation", "drift_dec",
    "drift_enc", "apart_dec", "apart_enc", "random_floor", "learned_dec", "learned_enc", "subspace_overlap",
    "subspace_floor", "correlation_alive", "correlation_shared", "untrained_shared", "untrained_mean_cos_dec",
    "untrained_mean_cos_enc", "untrained_same_match",
)  # fmt: skip
OF_ALIVE = ("mean_cos_dec", "mean_cos_enc", "same_match", "shared", "learned_dec", "learned_enc")
FIGURES = (*AVERAGED, *(f"{name}_alive" for name in OF_ALIVE))


def cells(records: Sequence[Record]) -> list[Record]:
    """One entry per label, L0 and number of tokens (of snapshots), in the order of `records`.

    Each figure of `FIGURES` that a pair has becomes {mean, std, low, high} over the pairs: see `spread`. `fvu` and
    `achieved_l0` are means over the runs.
    """
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        groups.setdefault((label(record), record["l0"], record.get("tokens")), []).append(record)
    return [_cell(group) for group in groups.values()]


def _cell(group: list[Record]) -> Record:
    units = [unit_names(record) for record in group]
    runs: dict[str, tuple[float, float]] = {}
    for record in group:
        for side, name in enumerate(unit_names(record, per_run=True)):
            runs[name] = record["fvu"][side], record["achieved_l0"][side]
    first = group[0]
    cell: Record = {
        "label": label(first),
        "l0": first["l0"],
        "tokens": first.get("tokens"),
        "pairs": len(group),
        "seeds": len({name for pair in units for name in pair}),
        "same_start": any(record["same_start_dec"] or record["same_start_enc"] for record in group),
        "alive": _mean(None if record["alive"] is None else record["alive"] / record["d_sae"] for record in group),
        "fvu": _mean(fvu for fvu, _ in runs.values()),
        "achieved_l0": _mean(l0 for _, l0 in runs.values()),
    }
    draws = _draws(units)
    for name in FIGURES:
        values = [record.get(name) for record in group]
        if any(value is not None for value in values):
            cell[name] = spread(np.array([np.nan if value is None else value for value in values]), draws)
    return cell


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean; None where one is not known."""
    known = list(values)
    return None if None in known else float(np.mean(known))  # type: ignore[arg-type]


def spread(values: np.ndarray, draws: np.ndarray) -> dict[str, float | None]:
    """Mean and standard deviation of `values` [pairs] (NaN: none), and the bootstrap interval over seeds.

    `draws` [draws, pairs] has each pair's weight in each draw: see `_draws`. `low` and `high` are None where no draw
    counts, as for one pair, and `std` for one pair.
    """
    known = ~np.isnan(values)
    values, draws = values[known], draws[:, known]
    total = draws.sum(axis=1)
    means = (draws[total > 0] @ values) / total[total > 0]
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(means, [tail, 100 - tail]) if len(values) > 1 and len(means) else (None, None)
    return {
        "mean": float(values.mean()),
        "std": float(values.std(ddof=1)) if len(values) > 1 else None,
        "low": None if low is None else float(low),
        "high": None if high is None else float(high),
    }


def _draws(units: list[tuple[str, ...]]) -> np.ndarray:
    """Weights [draws, pairs] of a bootstrap that draws seeds, with replacement, and not pairs.

    Pairs of one seed are not independent, so an interval over resampled pairs would be too narrow. A pair counts the
    product of the times that its seeds were drawn; a seed is never paired with itself.
    """
    names = sorted({name for pair in units for name in pair})
    drawn = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), size=DRAWS)
    columns = [np.prod([drawn[:, names.index(name)] for name in dict.fromkeys(pair)], axis=0) for pair in units]
    return np.stack(columns, axis=1).astype(np.float64)
