"""Which finished runs differ in one key alone that is not a seed, such as init, recipe.lr or l0."""

from __future__ import annotations

import json
from itertools import combinations, product

from saemd.errors import bad_value
from saemd.runs import Run, flatten
from saemd.runs.identity import decisive
from saemd.stability.siblings import Pair

_OF_ACTIVATIONS = ("layer", "lm", "corpus", "activations")  # keys that change the cached activations


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
        decides = {**decides, "cache": None, "lm": run.config.get("lm"), "corpus": run.config.get("corpus")}
    others = {name: value for name, value in flatten(decides).items() if name != key and not name.startswith(f"{key}.")}
    others.pop("init.label", None)  # a name
    return json.dumps(others, sort_keys=True)
