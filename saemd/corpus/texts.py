"""The texts of rows, and what is reported of rows and files without one."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saemd.corpus.json_rows import describe
from saemd.errors import UserError, bad_value
from saemd.progress import print_line

LOOK_ROWS = 1000  # if none of a file's first rows has the text field, the file is refused
_KEYS_SHOWN = 20
_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, which JSON can hold and no tokenizer reads
_reported: set[tuple[str, str]] = set()


@dataclass
class Tally:
    """What one pass over a corpus counted besides texts. Files are named as they are shown."""

    rows: int = 0
    without_text: int = 0  # rows whose text is null or empty
    without_field: int = 0  # rows without the text field, of files that have it in other rows
    empty_files: list[str] = field(default_factory=list)
    other_files: list[str] = field(default_factory=list)  # small files without the text field in any row
    keys: dict[str, None] = field(default_factory=dict)  # of rows without the text field
    has_field: bool = False

    def report(self, corpus: str, complete: bool) -> None:
        """Print what was left out, once in this process. `complete`: all rows were read."""
        skipped = {"with an empty or null text": self.without_text, "without the text field": self.without_field}
        if count := sum(skipped.values()):
            of = f"{self.rows:,} rows" if complete else f"the {self.rows:,} rows read so far"
            reasons = ", ".join(f"{n:,} {reason}" for reason, n in skipped.items() if n)
            report_once(corpus, "rows", f"skipped {count:,} of {of}: {reasons}")
        report_files(corpus, "empty", self.empty_files)
        report_files(corpus, "without the text field", self.other_files)


def texts_of(
    rows: Iterable[tuple[str, Mapping[str, Any]]], text_field: str, source: str, tally: Tally
) -> Iterator[str]:
    """The texts of the rows of `source`, a file or data set. `tally` counts the rest.

    Raises `UserError` for a text that is no string, and where the first `LOOK_ROWS` rows all lack the text field.
    """
    n = missing = 0
    for n, (place, row) in enumerate(rows, start=1):
        tally.rows += 1
        if text_field not in row:
            missing += 1
            tally.without_field += 1
            if len(tally.keys) < _KEYS_SHOWN:
                tally.keys.update(dict.fromkeys(row))
            if n == missing == LOOK_ROWS:
                raise no_field(text_field, f"none of the first {n:,} rows of {source}", tally)
            continue
        text = row[text_field]
        if text is None or text == "":
            tally.without_text += 1
        elif not isinstance(text, str):
            raise bad_value(
                "corpus.text_field", text_field, f"{place} of {source} has {describe(text)} there, not text"
            )
        else:
            yield _encodable(text)
    tally.has_field |= missing < n
    if not n:
        tally.empty_files.append(source)
    elif missing == n:
        tally.without_field -= n
        tally.other_files.append(source)


def no_field(text_field: str, where: str, tally: Tally) -> UserError:
    """The error for a missing text field. `where` is the beginning of the reason: `no row of a.jsonl`."""
    keys = [str(key) for key in tally.keys][:_KEYS_SHOWN]
    shown = ", ".join(keys + ["…"] * (len(tally.keys) > _KEYS_SHOWN)) or "none"
    return bad_value("corpus.text_field", text_field, f"{where} has it; the keys there are {shown}")


def report_files(corpus: str, what: str, names: list[str]) -> None:
    """Print once in this process that these files of the corpus are left out. `what` they are: `empty`."""
    if names:
        count = "1 file" if len(names) == 1 else f"{len(names):,} files"
        shown = ", ".join([Path(name).name for name in names[:3]] + ["…"] * (len(names) > 3))
        report_once(corpus, what, f"left out {count} ({what}): {shown}")


def report_once(corpus: str, topic: str, line: str) -> None:
    """Print a line about a corpus, unless one on this topic was printed in an earlier pass."""
    if (corpus, topic) not in _reported:
        _reported.add((corpus, topic))
        print_line(f"{corpus}: {line}")


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text)
    return text
