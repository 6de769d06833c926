"""The comparison of a run root: every pair of finished siblings, at any time, also in the middle of a sweep.

Its files: `stability.json` (a record per pair) with `pairs/*.npz` and `measures/*.json`; `cells.json` (a row per start
and L0); `recurrence.json` with `recurrence/*.npz`; `snapshots.json` (a record per pair of snapshots at equal tokens)
with `snapshots/tokens=<N>/`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from saemd.errors import bad_value
from saemd.files import DamagedFileError, check_writable, read_json, remove_stale, write_json
from saemd.locks import locked
from saemd.runs import Run, find_runs, read_run
from saemd.stability.activity import HeldOut, correlate_pairs, correlated
from saemd.stability.cells import cells
from saemd.stability.comparison import SHARED_THRESHOLD
from saemd.stability.measured import MEASURED, measure_pairs, measured
from saemd.stability.named import measured_runs, named_pairs, named_runs
from saemd.stability.pairs import floor, match_pairs, stored
from saemd.stability.records import Record, make_record, pair_keys, record_name
from saemd.stability.recurrence import Matched, write_recurrence
from saemd.stability.siblings import NAMED, Pair, pairs_across, siblings, snapshot_pairs

Shape = tuple[int, int, int]  # d_sae of a, d_in, d_sae of b


@dataclass(frozen=True)
class Outcome:
    """The result of one comparison of a run root."""

    folder: Path  # <run_root>/stability, or <run_root>/across=<key>
    runs: list[Run]
    records: list[Record]
    remarks: list[str]  # runs that were left out, as no other differs from them in this alone
    broken: list[str]  # runs that cannot be read or compared
    snapshots: list[Record]  # of snapshots at equal tokens, each with its `tokens`
    recurrence: list[dict[str, Any]]  # an entry per cell; empty across a key that is no seed
    across: str | None = None  # the key in which the runs of a pair differ; None: their seeds; NAMED: by name


def compare_root(
    run_root: Path | str, shared_threshold: float = SHARED_THRESHOLD, across: str | None = None
) -> list[Record]:
    """Compare all finished siblings below `run_root`; the records of `stability.json`, one per pair of seeds.

    Writes `stability.json` and `pairs/*.npz` to `<run_root>/stability/`; `saemd.report` draws them. With `across`, runs
    of one seed are compared that differ in that key alone, and the files go to `<run_root>/across=<key>/`. Only pairs
    whose weights are new or have changed are matched. Runs that cannot be read, and seeds of differing configurations,
    are named in a printed line and left out. `UserError` where `run_root` is no folder.
    """
    outcome = compare_all(Path(run_root), shared_threshold, across)
    for line in outcome.broken + outcome.remarks:
        print(line)
    return outcome.records


def compare_all(
    run_root: Path, shared_threshold: float, across: str | None = None, held_out: HeldOut | None = None
) -> Outcome:
    """As `compare_root`, with the runs and what was left out; prints nothing but progress.

    With `held_out`, which gives a run's held-out activations, those of matched latents are correlated too.
    """
    _check_threshold(shared_threshold)
    runs, broken = find_runs(run_root)
    pairs, remarks = pairs_across(runs, across) if across else siblings(runs)
    folder = run_root / (f"across={across}" if across else "stability")
    if not runs:
        return Outcome(folder, runs, [], remarks, broken, [], [], across)
    compared = _compare(folder, runs, pairs, shared_threshold, across, held_out)
    return replace(compared, remarks=remarks + compared.remarks, broken=broken + compared.broken)


def compare_named(
    addresses: Mapping[str, str],
    out: Path,
    shared_threshold: float = SHARED_THRESHOLD,
    start: str | None = None,
    held_out: HeldOut | None = None,
    tokens: int = 0,
) -> Outcome:
    """Compare SAEs from anywhere, by name and address, each two of them; the files of a run root's comparison in `out`.

    `start` is the address of the SAE that all started from. With `held_out`, which gives `tokens` held-out activations
    of a run, one of the SAEs must be a run; those from elsewhere are measured on its activations, too. Raises
    `UserError`.
    """
    _check_threshold(shared_threshold)
    runs = named_runs(addresses, start)
    remarks: list[str] = []
    if held_out:
        if (first := next((run for run in runs if "cache_fingerprint" in run.saved), None)) is None:
            raise bad_value("activations", tokens, "none of the SAEs is a run, whose cache has them; leave it out")
        of_first, every = first, held_out
        runs, remarks = measured_runs(runs, lambda: every(of_first), tokens)
        held_out = lambda _: every(of_first)  # noqa: E731
    outcome = _compare(out, runs, named_pairs(runs), shared_threshold, NAMED, held_out)
    return replace(outcome, remarks=list(dict.fromkeys(remarks + outcome.remarks)))


def _compare(
    folder: Path, runs: list[Run], pairs: list[Pair], threshold: float, across: str | None, held_out: HeldOut | None
) -> Outcome:
    check_writable(folder)  # before the matching, which may take hours
    remove_stale(folder)
    broken = match_pairs(folder, pairs)
    measure_pairs(folder, pairs, threshold, folder / "starts")
    remarks = correlate_pairs(folder, pairs, held_out) if held_out else []
    records, matched = _write_table(folder, pairs, threshold)
    recurring = [] if across else write_recurrence(folder, matched, threshold)
    along, unread = ([], []) if across == NAMED else _compare_snapshots(folder, pairs, threshold)
    return Outcome(folder, runs, records, remarks, broken + unread, along, recurring, across)


def compare_again(run_root: Path) -> Outcome:
    """As `compare_all`, with the threshold of the earlier comparison."""
    return compare_all(run_root, _earlier_threshold(run_root / "stability" / "stability.json"))


def _earlier_threshold(path: Path) -> float:
    """The threshold of the table `path`; the default without a table, or, with a printed line, for a damaged one."""
    if not path.is_file():
        return SHARED_THRESHOLD
    again = f"it is made again, with shared_threshold={SHARED_THRESHOLD}"
    try:
        records = read_json(path, again)
        if records == []:
            return SHARED_THRESHOLD
        threshold = records[0]["shared_threshold"]
        _check_threshold(threshold)
        return threshold
    except DamagedFileError as error:
        print(error)
    except (LookupError, TypeError, ValueError):
        print(DamagedFileError(path, "is no table of comparisons", again))
    return SHARED_THRESHOLD


def compare_run(run_dir: Path | str, shared_threshold: float = SHARED_THRESHOLD) -> list[Record]:
    """Compare one run that has just finished with its finished siblings; the records of these pairs (may be none).

    Cheap: it matches only this run's new pairs and brings `stability.json` up to date, under a lock, so that jobs of a
    parallel sweep may call it at once. `UserError` where `run_dir` is no finished, readable run; unreadable siblings
    only get a line.
    """
    _check_threshold(shared_threshold)
    this = read_run(Path(run_dir).resolve())
    folder = this.run_root / "stability"
    runs, broken = find_runs(this.run_root)
    pairs, _ = siblings(runs)
    check_writable(folder)
    own_pairs = [pair for pair in pairs if this.path in (pair.a.path, pair.b.path)]
    broken += match_pairs(folder, own_pairs)
    for line in broken:
        print(line)
    if not own_pairs:
        return []
    measure_pairs(folder, own_pairs, shared_threshold, folder / "starts")
    names = {record_name(pair_keys(pair)) for pair in own_pairs}
    return [record for record in _write_table(folder, pairs, shared_threshold)[0] if record_name(record) in names]


def _write_table(folder: Path, pairs: list[Pair], threshold: float) -> tuple[list[Record], list[Matched]]:
    """`stability.json` and `cells.json` from every pair that has been matched; also returns the pairs' comparisons.

    Made anew under the lock, so no job's pair is lost.
    """
    floors = _floors(folder, pairs)
    with locked(folder / ".lock"):
        records, matched = _records(folder, pairs, floors, threshold)
        write_json(folder / "stability.json", records)
        write_json(folder / "cells.json", cells(records))
    return records, matched


def _compare_snapshots(folder: Path, pairs: list[Pair], threshold: float) -> tuple[list[Record], list[str]]:
    """Compare the snapshots that both runs of a pair have at equal tokens: the records, and a line per unreadable one.

    Writes `snapshots.json`, if there are any.
    """
    along, broken = snapshot_pairs(pairs)
    records: list[Record] = []
    floors = _floors(folder, pairs)
    for asked, at in along.items():
        below = folder / "snapshots" / f"tokens={asked}"
        broken += match_pairs(below, at, f"matching at {asked:,} tokens")
        measure_pairs(below, at, threshold, folder / "starts")
        records += _records(below, at, floors, threshold)[0]
    if records:
        write_json(folder / "snapshots.json", records)
    return records, list(dict.fromkeys(broken))


def _floors(folder: Path, pairs: list[Pair]) -> dict[Shape, float]:
    kept = folder if any(pair.across == NAMED for pair in pairs) else folder.parent / "stability"
    return {shape: floor(kept, *shape) for shape in {_shape(pair) for pair in pairs}}


def _shape(pair: Pair) -> Shape:
    return pair.a.d_sae, pair.a.d_in, pair.b.d_sae


def _records(
    folder: Path, pairs: list[Pair], floors: dict[Shape, float], threshold: float
) -> tuple[list[Record], list[Matched]]:
    matched = [(pair, comparison) for pair in pairs if (comparison := stored(folder, pair)) is not None]
    records = []
    for pair, comparison in matched:
        record = make_record(pair, comparison, floors[_shape(pair)], threshold)
        record |= measured(folder, pair, threshold) or dict.fromkeys(MEASURED)
        records.append(record | correlated(folder, pair, comparison, threshold))
    return records, matched


def _check_threshold(threshold: float) -> None:
    if not 0 < threshold < 1:
        raise bad_value("shared_threshold", threshold, "use a cosine between 0 and 1 (Paulo & Belrose: 0.7)")
