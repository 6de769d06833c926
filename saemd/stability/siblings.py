"""Which finished runs are compared: siblings, or runs that differ in one key alone that is not a seed, such as init."""

import json
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

from saemd.errors import UserError, bad_value
from saemd.runs import SEED_KEYS, Run, flatten, read_snapshot, snapshots
from saemd.runs.identity import decisive

NAMED = "SAEs"  # in the place of a key, where each SAE was named on the command line
_OF_ACTIVATIONS = ("layer", "lm", "corpus", "activations", "documents")  # keys that change the cached activations


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

    @property
    def same_documents(self) -> bool | None:
        """Do both runs train on the same part of the documents, or on all? None where that is not known."""
        if self.across == NAMED:
            return None
        one, two = ((run.config.get("corpus") or {}).get("part") for run in (self.a, self.b))
        return one == two


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


def pairs_across(runs: list[Run], key: str) -> tuple[list[Pair], list[str]]:
    """Pairs of runs that differ in `key` alone, a key of the configuration or a group; and a line on unequal shapes.

    Raises `UserError` for a key that no run has.
    """
    if key == "seed":
        raise bad_value("across", key, "seeds are compared without across=…; leave it out")
    groups: dict[str, dict[str, list[Run]]] = {}  # by all else, then by the value of `key`
    for run in runs:
        if (value := run.value(key)) is not None:
            groups.setdefault(_all_but(run, key), {}).setdefault(str(value), []).append(run)
    if runs and not groups:
        remedy = "no run has this key, or this group's option in its folder; name another, such as init or recipe.lr"
        raise bad_value("across", key, remedy)
    pairs: list[Pair] = []
    remarks: list[str] = []
    for by_value in groups.values():
        for (value_a, of_a), (value_b, of_b) in combinations(by_value.items(), 2):
            a, b = min(product(of_a, of_b), key=lambda pair: _other_folders(*pair, key))
            if (a.d_in, a.d_sae) == (b.d_in, b.d_sae):
                pairs.append(Pair(a, b, across=key))
            else:
                shapes = f"of shape [{a.d_sae}, {a.d_in}] and [{b.d_sae}, {b.d_in}], cannot be matched"
                remarks.append(f"{key}={value_a} and {key}={value_b}: dictionaries {shapes}")
    return pairs, list(dict.fromkeys(remarks))


def _other_folders(a: Run, b: Run, key: str) -> int:
    """In how many keys but `key` do the two folders differ? One run may have been trained twice, in two folders."""
    return sum(a.parts.get(name) != b.parts.get(name) for name in a.parts | b.parts if name != key)


def _all_but(run: Run, key: str) -> str:
    """All that decides the run's weights but `key`, as text."""
    decides = decisive(run.config, run.saved["cache_fingerprint"])
    if key.split(".")[0] in _OF_ACTIVATIONS:  # then the cache differs with it, and its parts are compared
        text = {name: value for name, value in (run.config.get("corpus") or {}).items() if name != "part"}
        decides = {**decides, "cache": None, "lm": run.config.get("lm"), "corpus": text}
    others = {name: value for name, value in flatten(decides).items() if name != key and not name.startswith(f"{key}.")}
    others.pop("init.label", None)  # a name
    return json.dumps(others, sort_keys=True)


def snapshot_pairs(pairs: list[Pair]) -> tuple[dict[int, list[Pair]], list[str]]:
    """The pairs of snapshots at equal tokens, by the tokens asked for; and a line per unreadable snapshot."""
    of_run: dict[Path, dict[int, Run]] = {}
    broken: list[str] = []
    for run in {run.path: run for pair in pairs for run in (pair.a, pair.b)}.values():
        of_run[run.path] = {}
        for asked, folder in snapshots(run).items():
            try:
                of_run[run.path][asked] = read_snapshot(run, folder)
            except UserError as error:
                broken.append(str(error))
    along: dict[int, list[Pair]] = {}
    for pair in pairs:
        at_a, at_b = of_run[pair.a.path], of_run[pair.b.path]
        for asked in at_a.keys() & at_b.keys():
            if at_a[asked].metrics["tokens"] == at_b[asked].metrics["tokens"]:  # not where batch sizes differ
                along.setdefault(asked, []).append(Pair(at_a[asked], at_b[asked], pair.across))
    return dict(sorted(along.items())), broken
