"""Documents of data sets on the hub, streamed; nothing is stored."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from saemd.corpus.files import SHUFFLE_DOCUMENTS
from saemd.corpus.texts import Tally, no_field, texts_of
from saemd.errors import bad_value

_COPY = "or set corpus.path to a local copy, of which the text alone is read"


def streamed(dataset: str, text_field: str, seed: int) -> Iterator[str]:
    """Documents of a data set on the hub, shuffled in a buffer. Rows without a text are skipped, as in `read_files`.

    Raises `UserError` for a data set that cannot be fetched, a stream that breaks off, and a data set without text.
    """
    from datasets.exceptions import DatasetNotFoundError

    try:
        rows = _load(dataset, text_field)
    except (DatasetNotFoundError, ConnectionError, OSError) as error:
        remedy = f"the hub did not give it: check the name and the network, {_COPY}"
        raise bad_value("corpus.dataset", dataset, remedy) from error
    except (ValueError, RuntimeError) as error:  # no split, several configurations, a script
        raise bad_value("corpus.dataset", dataset, f"cannot be streamed ({_reason(error)}); {_COPY}") from error
    names = rows.column_names
    if names and text_field not in names:
        raise no_field(text_field, f"no row of {dataset}", Tally(keys=dict.fromkeys(names)))
    placed = _placed(dataset, rows.shuffle(seed=seed, buffer_size=SHUFFLE_DOCUMENTS))
    tally, label = Tally(), f"corpus.dataset={dataset}"
    has_text = False
    try:
        for text in texts_of(placed, text_field, dataset, tally):
            has_text = True
            yield text
    except GeneratorExit:  # enough for this pass
        tally.report(label, complete=False)
        raise
    if not has_text and tally.rows and not tally.has_field:
        raise no_field(text_field, f"no row of {dataset}", tally)
    if not has_text:
        raise bad_value("corpus.dataset", dataset, "it holds no text")
    tally.report(label, complete=True)


def _load(dataset: str, text_field: str) -> Any:
    """The rows of the training split, an `IterableDataset`; of parquet files, the text column alone.

    `datasets` casts every column to its type in the first file, even a column that nobody reads. Of JSON files it
    cannot read one column alone, so a column that changes its type ends the stream, with a line that says what helps.
    """
    from datasets import load_dataset

    rows = load_dataset(dataset, split="train", streaming=True)
    if rows.info.builder_name == "parquet" and text_field in (rows.column_names or ()):
        return load_dataset(dataset, split="train", streaming=True, columns=[text_field])
    return rows


def _placed(dataset: str, rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """`(place, row)`. Shuffled rows have no known place."""
    n = 0
    try:
        for row in rows:
            n += 1
            yield "a row", row
    except (OSError, TypeError, ValueError, pa.ArrowException) as error:
        reason = f"the stream broke off after {n:,} rows ({_reason(error)}); start again, {_COPY}"
        raise bad_value("corpus.dataset", dataset, reason) from error


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
