"""Packaged texts in place of the data sets that SAEBench knows.

Only the texts and their classes are replaced. SAEBench's own code draws, pairs and tokenises them, trains the probes,
and chooses and ablates latents. The sets keep their own names in its JSON.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
from sae_bench.evals.scr_and_tpp import dataset_creation
from sae_bench.evals.scr_and_tpp import main as scr_and_tpp
from sae_bench.sae_bench_utils import dataset_info, dataset_utils

Texts = dict[str, list[str]]  # class → texts


@contextmanager
def packaged(sets: dict[str, dict[str, Any]]) -> Iterator[None]:
    """Within, `sets` (name → folder, columns, classes, seconds) are the data sets that SAEBench knows."""

    def by_class(name: str, train_size: int, test_size: int, seed: int) -> tuple[Texts, Texts]:
        """As `get_multi_label_train_test_data`: for each class, half of the texts are its own, half the others'."""
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

    classes = {name: described["classes"] for name, described in sets.items()}
    seconds = {name: tuple(described["seconds"]) for name, described in sets.items()}
    metadata = {name: _metadata(described) for name, described in sets.items() if described["seconds"]}
    with (
        patch.multiple(dataset_info, chosen_classes_per_dataset=classes, dataset_metadata=metadata),
        patch.multiple(dataset_utils, get_multi_label_train_test_data=by_class),
        patch.multiple(dataset_creation, get_train_test_data=correlated_or_by_class),
        patch.multiple(scr_and_tpp, COLUMN2_VALS_LOOKUP=seconds),  # read, and not used, by TPP too
    ):
        yield


def _frames(described: dict[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    paths = [Path(described["folder"]) / f"{part}.jsonl" for part in ("train", "test")]
    train, test = (pd.DataFrame(map(json.loads, path.read_text("utf-8").splitlines())) for path in paths)
    return train, test


def _metadata(described: dict[str, Any]) -> dict[str, Any]:
    """Each class is its own name: SAEBench's data sets number theirs."""
    first, second = described["columns"]
    return {
        "text_column_name": "text",
        "column1_name": first,
        "column2_name": second,
        "column1_mapping": {label: label for label in described["classes"]},
        "column2_mapping": {label: label for label in described["seconds"]},
    }
