"""Documents from a user's files, and from data sets on the hub."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from saemd.errors import UserError, bad_value

BUILDERS = {".txt": "text", ".jsonl": "json", ".json": "json", ".zst": "json", ".parquet": "parquet"}
SHUFFLE_DOCUMENTS = 10_000  # buffer of what is streamed


def files_of(path: Path) -> list[Path]:
    """The files that are read of a file or folder, sorted."""
    if path.is_file():
        return [path]
    return sorted(p for p in path.rglob("*") if p.is_file() and p.suffix in BUILDERS)


def read_files(path: Path, text_field: str, seed: int) -> Iterator[str]:
    """Documents of a file or folder: a .txt is one document, .jsonl, .jsonl.zst and .parquet hold one a row.

    The files are shuffled, and rows are read through `datasets` and shuffled in a buffer: memory holds that many
    documents, however large the files. Raises `UserError` for what cannot be read, when it is reached.
    """
    if not path.exists():
        raise bad_value("corpus.path", path, "there is no such file or folder")
    files = files_of(path)
    if not files or files[0].suffix not in BUILDERS:
        raise bad_value("corpus.path", path, f"no files of a known kind here ({', '.join(BUILDERS)})")
    draw = random.Random(seed)
    draw.shuffle(files)
    waiting: list[str] = []
    for text in (text for file in files for text in _read(file, text_field)):
        if len(waiting) < SHUFFLE_DOCUMENTS:
            waiting.append(text)
            continue
        i = draw.randrange(SHUFFLE_DOCUMENTS)
        waiting[i], text = text, waiting[i]
        yield text
    draw.shuffle(waiting)
    yield from waiting


def _read(file: Path, text_field: str) -> Iterator[str]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    try:
        if file.suffix == ".txt":
            if text := file.read_text(encoding="utf-8").strip():
                yield text
            return
        if not file.stat().st_size:
            raise bad_value("corpus.path", file, "the file is empty")
        rows = load_dataset(BUILDERS[file.suffix], data_files=str(file), split="train", streaming=True)
        for n, row in enumerate(rows, start=1):
            text = row.get(text_field)
            if not isinstance(text, str):
                raise bad_value("corpus.text_field", text_field, f"row {n} of {file} has no such text, but {list(row)}")
            if text:
                yield text
    except UserError:
        raise
    except (OSError, ValueError, DatasetGenerationError) as error:
        reason = " ".join(str(error).split())[:160]
        raise bad_value("corpus.path", file, f"cannot be read ({type(error).__name__}: {reason})") from error


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
