"""Documents from a user's files: which files are read, in which order, and what is checked beforehand."""

import glob
import os
import random
from collections.abc import Iterator
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path

from saemd.corpus.opened import COMPRESSED, readable
from saemd.corpus.rows import ENDINGS, form_of, rows_of
from saemd.corpus.texts import LOOK_ROWS, Tally, no_field, report_files, texts_of
from saemd.errors import UserError, bad_value

SHUFFLE_DOCUMENTS = 10_000  # buffer of what is streamed
# Files that datasets writes besides its data.
METADATA = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "cache-*.arrow")
LOOK_FILES, LOOK_TEXTS = 200, 100  # `check_files` opens so many files, and reads so many texts of each


def files_of(path: Path) -> list[Path]:
    """The files that are read of a file or folder, sorted: those with a known ending that are not hidden.

    Raises `UserError` for a path that is neither, a folder that cannot be listed, and a link to nothing.
    """
    return _sorted_out(path)[0]


def order_of(files: list[Path]) -> str:
    """A word for the documents' order, for the fingerprint: a cache begun in another order must not be resumed.

    Names with brackets or stars have their own word, since an earlier version read them as patterns.
    """
    return "literal" if any(glob.has_magic(str(file)) for file in files) else "buffered"


def read_files(path: Path, text_field: str, seed: int) -> Iterator[str]:
    """Documents of a file or folder: a .txt file is one document, other files hold one per row.

    The files are shuffled, and rows are shuffled in a buffer: memory holds `SHUFFLE_DOCUMENTS` documents, however large
    the files. Rows without a text are skipped, and counted in one line. Raises `UserError` for content that cannot be
    read, when it is reached, and for files without any text.
    """
    files, others = _sorted_out(path)
    report_files(f"corpus.path={path}", "of other kinds", [str(file) for file in others])
    draw = random.Random(seed)
    draw.shuffle(files)
    tally = Tally()
    waiting: list[str] = []
    try:
        for text in (text for file in files for text in _read(file, text_field, tally)):
            if len(waiting) < SHUFFLE_DOCUMENTS:
                waiting.append(text)
                continue
            i = draw.randrange(SHUFFLE_DOCUMENTS)
            waiting[i], text = text, waiting[i]
            yield text
    except GeneratorExit:  # enough for this pass
        tally.report(f"corpus.path={path}", complete=False)
        raise
    if not waiting:
        raise _no_text(path, text_field, files, tally)
    tally.report(f"corpus.path={path}", complete=True)
    draw.shuffle(waiting)
    yield from waiting


def check_files(path: Path, text_field: str) -> None:
    """Read the first rows of at most `LOOK_FILES` files, so that a mistake in them surfaces now, not hours later.

    Raises `UserError` as `read_files` does.
    """
    files = files_of(path)
    tally = Tally()
    has_text, complete = False, len(files) <= LOOK_FILES
    for file in files[:LOOK_FILES]:
        before = tally.rows
        has_text |= any([text != "" for text in islice(_read(file, text_field, tally, LOOK_ROWS), LOOK_TEXTS)])
        complete &= tally.rows - before < LOOK_ROWS
    if complete and not has_text:
        raise _no_text(path, text_field, files, tally)


def _read(file: Path, text_field: str, tally: Tally, most_rows: int | None = None) -> Iterator[str]:
    with readable(file):
        if not file.stat().st_size:
            tally.empty_files.append(str(file))
            return
        yield from texts_of(islice(rows_of(file, text_field), most_rows), text_field, str(file), tally)


def _no_text(path: Path, text_field: str, files: list[Path], tally: Tally) -> UserError:
    if tally.other_files and not tally.has_field:
        return no_field(text_field, f"no row of {path}", tally)
    if len(files) == 1 and tally.empty_files:
        return bad_value("corpus.path", files[0], "the file is empty")
    return bad_value("corpus.path", path, "no text in these files")


def _sorted_out(path: Path) -> tuple[list[Path], list[Path]]:
    """The files that are read, and the others."""
    try:
        if not path.exists():
            link = " (it is a link to nothing)" if path.is_symlink() else ""
            raise bad_value("corpus.path", path, f"there is no such file or folder{link}")
        if not (path.is_dir() or path.is_file()):
            raise bad_value("corpus.path", path, "neither a file nor a folder; it is read several times")
        entries = sorted(_walk(path, set())) if path.is_dir() else [path]
        files = [
            p for p in entries if form_of(p.name) and (p == path or not any(fnmatch(p.name, name) for name in METADATA))
        ]
        for file in files:
            if not file.exists():
                raise bad_value("corpus.path", file, "a link to nothing; remove it, or bring back what it stood for")
        files = [file for file in files if file.is_file()]
    except OSError as error:
        raise bad_value("corpus.path", error.filename or path, f"cannot be read ({error.strerror})") from error
    if not files:
        endings = f"{', '.join(ENDINGS)}; lines and texts also with {', '.join(COMPRESSED)}"
        raise bad_value("corpus.path", path, f"no files of a known kind here ({endings})")
    read = set(files)
    return files, [p for p in entries if p not in read]


def _walk(folder: Path, visited: set[tuple[int, int]]) -> Iterator[Path]:
    """The files in the folder and below. Links are followed; hidden files and folders are left out."""
    identity = (folder.stat().st_dev, folder.stat().st_ino)
    if identity in visited:
        return
    visited.add(identity)
    with os.scandir(folder) as entries:
        shown = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    for path in (folder / name for name in shown):
        if path.is_dir():
            yield from _walk(path, visited)
        else:
            yield path
