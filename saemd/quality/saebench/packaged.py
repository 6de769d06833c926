"""SAEBench's look-ups of data sets, answered with packaged texts. Imported in SAEBench's environment alone.

Which texts and which classes is all that is replaced: SAEBench draws, pairs and tokenises them, trains its probes,
chooses and ablates latents with its own code. The sets keep their own names in its JSON.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from sae_bench.evals.scr_and_tpp import dataset_creation
from sae_bench.evals.scr_and_tpp import main as scr_and_tpp
from sae_bench.sae_bench_utils import dataset_info, dataset_utils

from saemd.quality.saebench.replaced import replaced

Texts = dict[str, list[str]]  # class → texts


@contextmanager
def packaged(sets: dict[str, dict[str, Any]]) -> Iterator[None]:
    """Within, `sets` (name → folder, columns, classes, seconds) are the data sets that SAEBench knows."""

    def by_class(name: str, train_size: int, test_size: int, seed: int) -> tuple[Texts, Texts]:
        """As `get_multi_label_train_test_data`: of each class half of the size, the other half being all others."""
        column, classes = sets[name]["columns"][0], sets[name]["classes"]
        train, test = (
            dataset_utils.gather_dataset_from_df(frame, classes, size // 2, column, "text", seed)
            for frame, size in zip(_frames(sets[name]), (train_size, test_size), strict=True)
        )
        return train, test

    def correlated_or_by_class(
        name: str, spurious: bool, train_size: int, test_size: int, seed: int,
        first: tuple[str, str] | None = None, second: tuple[str, str] | None = None,
    ) -> tuple[Texts, Texts]:  # fmt: skip
        """As `get_train_test_data`, which knows two data sets by name."""
        if not spurious:
            return by_class(name, train_size, test_size, seed)
        train, test = (
            dataset_creation.get_spurious_corr_data(frame, first, second, name, size // 4, seed)
            for frame, size in zip(_frames(sets[name]), (train_size, test_size), strict=True)
        )
        return train, test

    classes = {name: known["classes"] for name, known in sets.items()}
    seconds = {name: tuple(known["seconds"]) for name, known in sets.items()}
    metadata = {name: _metadata(known) for name, known in sets.items() if known["seconds"]}
    with (
        replaced(dataset_info, chosen_classes_per_dataset=classes, dataset_metadata=metadata),
        replaced(dataset_utils, get_multi_label_train_test_data=by_class),
        replaced(dataset_creation, get_train_test_data=correlated_or_by_class),
        replaced(scr_and_tpp, COLUMN2_VALS_LOOKUP=seconds),  # read, and not used, by TPP too
    ):
        yield


def _frames(known: dict[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    lines = [(Path(known["folder"]) / f"{part}.jsonl").read_text("utf-8").splitlines() for part in ("train", "test")]
    train, test = (pd.DataFrame([json.loads(line) for line in of_part]) for of_part in lines)
    return train, test


def _metadata(known: dict[str, Any]) -> dict[str, Any]:
    """A class stands for itself: no numbers in between."""
    first, second = known["columns"]
    return {
        "text_column_name": "text",
        "column1_name": first,
        "column2_name": second,
        "column1_mapping": {label: label for label in known["classes"]},
        "column2_mapping": {label: label for label in known["seconds"]},
    }
