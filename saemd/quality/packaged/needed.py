"""What an evaluation's settings ask of packaged sets, held against what is there before hours of work."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from saemd.errors import bad_value
from saemd.quality.packaged.sets import DOUBLE, SETS, SINGLE
from saemd.quality.packaged.split import SPLITS, Split, labelled

KNOWN = {"sparse_probing": SINGLE, "tpp": SINGLE, "scr": DOUBLE}  # the evaluations that take packaged sets


def needed(evaluation: str, settings: Any, cache_root: Path) -> dict[str, dict[str, Any]]:
    """Each set that `settings` name: where it is, its columns and classes, what it is from. Plain data.

    Raises `UserError` for a name, a class or a size that cannot be had.
    """
    if evaluation not in KNOWN:
        raise bad_value("data", settings.data, f"packaged texts are for {', '.join(KNOWN)}; leave it out here")
    found: dict[str, dict[str, Any]] = {}
    for name in settings.dataset_names:
        if name not in KNOWN[evaluation]:
            raise bad_value("dataset_names", name, f"with data=packaged known are {', '.join(KNOWN[evaluation])}")
        there = labelled(name, cache_root)
        for part in SPLITS:
            key = _size_key(evaluation, part)
            size = getattr(settings, key)
            if evaluation == "scr":
                pairs = settings.column1_vals_lookup[name]
                most, rarest = min(_most_correlated(there.counts[part], name, pair) for pair in pairs)
            else:
                most, rarest = _most_of_classes(there.counts[part])
            if size > most:
                raise bad_value(key, size, f"at most {most} with {name}, whose {part} split is short of {rarest}")
        known, source = SETS[name], SETS[name].source
        found[name] = {
            "folder": str(there.folder.absolute()),
            "columns": list(known.columns),
            "classes": list(known.classes),
            "seconds": list(known.seconds),
            "package": f"{source.package.name}=={source.package.version}",
            "licence": source.licence,
        }
    return found


def _size_key(evaluation: str, part: Split) -> str:
    return f"probe_{part}_set_size" if evaluation == "sparse_probing" else f"{part}_set_size"


def _most_of_classes(counts: Counter[tuple[str, ...]]) -> tuple[int, str]:
    """SAEBench takes half of the size from every class."""
    label = min(counts, key=counts.__getitem__)
    return 2 * counts[label], label[0]


def _most_correlated(counts: Counter[tuple[str, ...]], name: str, pair: list[str]) -> tuple[int, str]:
    """SAEBench takes a quarter of the size from each combination, and more than half from the two that coincide."""
    known = SETS[name]
    for label in pair:
        if label not in known.classes:
            raise bad_value("column1_vals_lookup", pair, f"the classes of {name} are {', '.join(known.classes)}")
    first, second = known.seconds
    quarters = {
        combination: (counts[combination] - 1) // 2 if coincide else counts[combination]
        for combination, coincide in {
            (pair[0], first): True, (pair[1], second): True, (pair[0], second): False, (pair[1], first): False,
        }.items()
    }  # fmt: skip
    combination = min(quarters, key=quarters.__getitem__)
    return 4 * quarters[combination], " + ".join(combination)
