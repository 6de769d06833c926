"""The packaged sets that an evaluation's settings name, checked against what they hold before hours of work."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from saemd.errors import bad_value
from saemd.quality.packaged.sets import SETS
from saemd.quality.packaged.split import SPLITS, labelled


def packaged_sets(
    settings: Any, cache_root: Path, *, columns: int, size_key: str = "{}_set_size"
) -> dict[str, dict[str, Any]]:
    """Each set that `settings.dataset_names` names: its folder, columns, classes and source. Plain data.

    `columns`: how many labels a text needs, 1 or 2 (SCR). `size_key`: the settings' key for the size of a split. Raises
    `UserError` for a name, a class or a size that cannot be had.
    """
    known = [name for name, described in SETS.items() if len(described.columns) == columns]
    sets: dict[str, dict[str, Any]] = {}
    for name in settings.dataset_names:
        if name not in known:
            raise bad_value("dataset_names", name, f"with data=packaged known are {', '.join(known)}")
        on_disk = labelled(name, cache_root)
        for part in SPLITS:
            key = size_key.format(part)
            size, counts = getattr(settings, key), on_disk.counts[part]
            if columns == 2:
                most, rarest = min(_most_correlated(counts, name, pair) for pair in settings.column1_vals_lookup[name])
            else:
                most, rarest = _most_of_classes(counts)
            if size > most:
                raise bad_value(key, size, f"at most {most} with {name}, whose {part} split is short of {rarest}")
        described, source = SETS[name], SETS[name].source
        sets[name] = {
            "folder": str(on_disk.folder.absolute()),
            "columns": list(described.columns),
            "classes": list(described.classes),
            "seconds": list(described.seconds),
            "package": f"{source.package.name}=={source.package.version}",
            "licence": source.licence,
        }
    return sets


def _most_of_classes(counts: Counter[tuple[str, ...]]) -> tuple[int, str]:
    """The largest size that the rarest class allows: SAEBench takes half of the size from every class."""
    label = min(counts, key=counts.__getitem__)
    return 2 * counts[label], label[0]


def _most_correlated(counts: Counter[tuple[str, ...]], name: str, pair: list[str]) -> tuple[int, str]:
    """The largest size that the rarest combination of two classes allows.

    SAEBench takes a quarter of the size from each combination, and more than half from the two that coincide.
    """
    described = SETS[name]
    for label in pair:
        if label not in described.classes:
            raise bad_value("column1_vals_lookup", pair, f"the classes of {name} are {', '.join(described.classes)}")
    first, second = described.seconds
    quarters = {
        combination: (counts[combination] - 1) // 2 if coincide else counts[combination]
        for combination, coincide in {
            (pair[0], first): True, (pair[1], second): True, (pair[0], second): False, (pair[1], first): False,
        }.items()
    }  # fmt: skip
    combination = min(quarters, key=quarters.__getitem__)
    return 4 * quarters[combination], " + ".join(combination)
