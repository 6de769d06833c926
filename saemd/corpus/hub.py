"""Documents of data sets on the hub, streamed: nothing is stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from saemd.corpus.files import SHUFFLE_DOCUMENTS
from saemd.corpus.json_rows import is_object, json_object
from saemd.corpus.texts import Tally, no_field, texts_of
from saemd.errors import bad_value

if TYPE_CHECKING:
    from datasets import IterableDataset

_COPY = "or set corpus.path to a local copy"


def streamed(dataset: str, text_field: str, seed: int) -> Iterator[str]:
    """Documents of a data set on the hub, shuffled in a buffer. Rows without a text are skipped, as `read_files` does.

    Raises `UserError` for a data set that the hub does not give, a stream that breaks off, and where there is no text.
    """
    from datasets.exceptions import DatasetNotFoundError

    try:
        rows, are_lines = _load(dataset, text_field)
    except (DatasetNotFoundError, ConnectionError, OSError) as error:
        remedy = f"the hub did not give it: check the name and the network, {_COPY}"
        raise bad_value("corpus.dataset", dataset, remedy) from error
    except (ValueError, RuntimeError) as error:  # no split, several configurations, a script
        raise bad_value("corpus.dataset", dataset, f"cannot be streamed ({_reason(error)}); {_COPY}") from error
    names = rows.column_names
    if names and not are_lines and text_field not in names:
        keys = dict.fromkeys(names)
        raise no_field(text_field, f"the rows of {dataset}", Tally(keys=keys))
    placed = _placed(dataset, rows.shuffle(seed=seed, buffer_size=SHUFFLE_DOCUMENTS), are_lines)
    tally, label = Tally(), f"corpus.dataset={dataset}"
    found = False
    try:
        for text in texts_of(placed, text_field, dataset, tally):
            found = True
            yield text
    except GeneratorExit:  # enough for this pass
        tally.report(label, whole=False)
        raise
    if not found and tally.rows and not tally.has_field:
        raise no_field(text_field, f"the {tally.rows:,} rows of {dataset}", tally)
    if not found:
        raise bad_value("corpus.dataset", dataset, "it holds no text")
    tally.report(label, whole=True)


def _load(dataset: str, text_field: str) -> tuple[IterableDataset, bool]:
    """The rows of its training split, and whether they are lines of JSON.

    `datasets` casts every column of a file to what the first file has, also those that nobody reads. So of parquet
    only the text is asked for, and JSON lines are taken as text.
    """
    from datasets import load_dataset, load_dataset_builder

    rows = load_dataset(dataset, split="train", streaming=True)
    if rows.info.builder_name == "parquet" and text_field in (rows.column_names or ()):
        return load_dataset(dataset, split="train", streaming=True, columns=[text_field]), False
    if rows.info.builder_name == "json":
        files = load_dataset_builder(dataset).config.data_files or {}
        lines = load_dataset("text", data_files={"train": list(files["train"])}, split="train", streaming=True)
        if is_object(next((line["text"] for line in lines if line["text"].strip()), "")):
            return lines, True
    return rows, False


def _placed(
    dataset: str, rows: Iterable[Mapping[str, Any]], are_lines: bool
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """`(place, row)`; the places are not known, for the rows are shuffled."""
    n = 0
    try:
        for row in rows:
            n += 1
            if not are_lines:
                yield "a row", row
            elif line := row["text"].removeprefix("\ufeff").strip():
                yield "a row", json_object(line)
    except (OSError, TypeError, ValueError, pa.ArrowException) as error:
        reason = f"the stream broke off after {n:,} rows ({_reason(error)}); start again, {_COPY}"
        raise bad_value("corpus.dataset", dataset, reason) from error


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
