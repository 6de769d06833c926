"""sha256 of users' files, computed once and kept: in this process, and for later ones in `cache_root/digests.json`.

A file is identified by its path, size, times and inode. The system sets the change time, so an edit that keeps size and
modification time is noticed too. Where `digests.json` cannot be read or written, files are hashed again.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from saemd.errors import UserError
from saemd.files import write_text
from saemd.locks import locked
from saemd.progress import bar

KEPT = "digests.json"
_SETTLED_SECONDS = 2.0  # a younger file may change again within one tick of the system's clock
_SHOWN_BYTES = 1_000_000_000  # from here on hashing takes seconds, and a bar is shown
_BLOCK_BYTES = 1 << 22

Status = tuple[int, ...]  # size in bytes, modification and change time in ns, inode
Entries = dict[str, tuple[Status, str]]  # absolute path → status, hex digest

_entries: Entries = {}
_unsaved: Entries = {}


def digests(paths: Sequence[Path], cache_root: Path | None) -> list[str]:
    """Hex sha256 of each file, in order. `cache_root=None` keeps them in this process alone.

    Raises `OSError` for a file that cannot be read.
    """
    status = {str(path.absolute()): _status(path) for path in paths}
    if cache_root is not None and any(not _is_current(name, status[name]) for name in status):
        _entries.update({name: entry for name, entry in _load(cache_root).items() if name in status})
    result = {name: _entries[name][1] for name in status if _is_current(name, status[name])}
    missing = [name for name in status if name not in result]
    total = sum(status[name][0] for name in missing)
    if total < _SHOWN_BYTES:
        result |= {name: _digest(name, status[name], lambda _: None) for name in missing}
    else:
        with bar(f"checksums of {len(missing)} files, once", total=total) as progress:
            result |= {name: _digest(name, status[name], progress.advance) for name in missing}
    if cache_root is not None:
        _save(cache_root)
    return [result[str(path.absolute())] for path in paths]


def _status(path: Path | str) -> Status:
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def _is_current(name: str, status: Status) -> bool:
    return name in _entries and _entries[name][0] == status


def _digest(name: str, before: Status, advance: Callable[[float], None]) -> str:
    """Hash one file. The digest is kept only if the file did not change shortly before and while it was read."""
    digest = hashlib.sha256()
    with open(name, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            advance(len(block))
    is_settled = time.time() - max(before[1:3]) / 1e9 > _SETTLED_SECONDS
    if is_settled and _status(name) == before:
        _entries[name] = _unsaved[name] = before, digest.hexdigest()
    return digest.hexdigest()


def _load(cache_root: Path) -> Entries:
    """The kept digests; none if the file is missing, unreadable or damaged."""
    try:
        kept = json.loads((cache_root / KEPT).read_text())
        return {str(name): (tuple(status), str(digest)) for name, (status, digest) in kept.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _save(cache_root: Path) -> None:
    """Add this process's digests to the kept ones, once `cache_root` exists."""
    if not _unsaved or not cache_root.is_dir():
        return
    try:
        with locked(cache_root / f".{KEPT}.lock"):
            kept = {name: entry for name, entry in _load(cache_root).items() if os.path.exists(name)} | _unsaved
            write_text(cache_root / KEPT, json.dumps(kept))
    except (OSError, UserError):  # a read-only cache_root, or a full disk: the next process hashes again
        return
    _unsaved.clear()
