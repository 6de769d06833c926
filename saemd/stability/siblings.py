"""Which finished runs are siblings: those that differ in nothing but their seeds, wherever they lie."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from saemd.runs import SEED_KEYS, Run, flatten


@dataclass(frozen=True, eq=False)
class Pair:
    """Two runs that are compared; of siblings, a's seed is the lower one."""

    a: Run
    b: Run
    across: str | None = None  # the key in which they differ; None: their seeds

    def same_start(self, weight: str) -> bool | None:
        """Do both runs start from bit-equal `weight` (W_dec or W_enc)? None where a run did not note it."""
        starts = [(run.saved.get("start") or {}).get(weight) for run in (self.a, self.b)]
        return None if None in starts else starts[0] == starts[1]


def siblings(runs: list[Run]) -> tuple[list[Pair], list[str]]:
    """Pairs of runs with one init, L0 and `sibling_fingerprint`; and a line on seeds whose configurations differ."""
    groups: dict[tuple[str, float, str], list[Run]] = {}
    cells: dict[tuple[str, float], dict[str, list[Run]]] = {}
    for run in runs:
        fingerprint = run.saved["sibling_fingerprint"]
        groups.setdefault((run.init, run.l0, fingerprint), []).append(run)
        cells.setdefault((run.label, run.l0), {}).setdefault(fingerprint, []).append(run)
    pairs = []
    for group in groups.values():
        places = {(run.label, run.seeds) for run in group}
        for a, b in combinations(sorted(group, key=lambda run: run.seed), 2):
            repeated = a.label != b.label and bool({(a.label, b.seeds), (b.label, a.seeds)} & places)
            if a.seeds != b.seeds and not repeated:  # of a run in two folders, that of the other run counts
                pairs.append(Pair(a, b))
    remarks = []
    for (label, l0), by_fingerprint in cells.items():
        first, *others = by_fingerprint.values()
        remarks += [f"init={label} l0={l0:g}: {_difference(first, other)}" for other in others]
    return pairs, remarks


def _difference(first: list[Run], other: list[Run]) -> str:
    one, two = flatten(first[0].config), flatten(other[0].config)
    keys = [key for key in {**one, **two} if key not in SEED_KEYS and one.get(key) != two.get(key)]
    shown = ", ".join(f"{key}={one.get(key)} and {two.get(key)}" for key in keys[:3]) or "the cache or the start"
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    seeds = [",".join(str(run.seed) for run in group) for group in (first, other)]
    return f"seed {seeds[0]} and seed {seeds[1]} are not compared, they differ in {shown}{more}"
