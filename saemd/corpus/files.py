"""Documents from a user's files, and from data sets on the hub."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from saemd.errors import UserError, bad_value

BUILDERS = {".txt": "text", ".jsonl": "json", ".json": "json", ".zst": "json", ".parquet": "parquet"}
SHUFFLE_DOCUMENTS = 10_000  # buffer of a streamed data set


def read_files(path: Path, text_field: str, seed: int) -> Iterator[str]:
    """Documents of a file or folder: a .txt is one document, .jsonl, .jsonl.zst and .parquet hold one a row.

    Rows are read through `datasets` and shuffled as a whole. Raises `UserError` for what cannot be read.
    """
    if not path.exists():
        raise bad_value("corpus.path", path, "there is no such file or folder")
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and p.suffix in BUILDERS)
    if not files or files[0].suffix not in BUILDERS:
        raise bad_value("corpus.path", path, f"no files of a known kind here ({', '.join(BUILDERS)})")
    texts: list[str] = []
    for file in files:
        texts.extend(_read(file, text_field))
    random.Random(seed).shuffle(texts)
    yield from texts


def _read(file: Path, text_field: str) -> list[str]:
    from datasets import Dataset, load_dataset
    from datasets.exceptions import DatasetGenerationError

    try:
        if file.suffix == ".txt":
            return [text] if (text := file.read_text(encoding="utf-8").strip()) else []
        if not file.stat().st_size:
            raise bad_value("corpus.path", file, "the file is empty")
        rows = load_dataset(BUILDERS[file.suffix], data_files=str(file), split="train", streaming=True)
        texts = [row.get(text_field) for row in rows]
    except UserError:
        raise
    except (OSError, ValueError, DatasetGenerationError) as error:
        reason = " ".join(str(error).split())[:160]
        raise bad_value("corpus.path", file, f"cannot be read ({type(error).__name__}: {reason})") from error
    assert not isinstance(rows, Dataset)
    if missing := sum(not isinstance(text, str) for text in texts):
        raise bad_value("corpus.text_field", text_field, f"{missing} of {len(texts)} rows of {file} have no such text")
    return [text for text in texts if text]


def streamed(dataset: str, text_field: str, seed: int) -> Iterator[str]:
    """Documents of a data set on the hub, streamed and shuffled in a buffer; nothing is stored."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        rows = load_dataset(dataset, split="train", streaming=True)
    except (DatasetNotFoundError, ConnectionError, OSError) as error:
        remedy = "the hub did not give it: check the name and the network, or set corpus.path to a local copy"
        raise bad_value("corpus.dataset", dataset, remedy) from error
    for row in rows.shuffle(seed=seed, buffer_size=SHUFFLE_DOCUMENTS):
        text = row.get(text_field)
        if not isinstance(text, str):
            raise bad_value("corpus.text_field", text_field, f"a row of {dataset} has no such text; it has {list(row)}")
        if text:
            yield text
