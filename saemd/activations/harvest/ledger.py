"""Which groups of contexts are made, and by whom: in memory for one process, in files for several that write a cache.

The files are in the cache's folder under `.unfinished/`, named by split and number of the group:

    train-00007.lock    locked (flock) by the process that makes the group; the system releases a killed one's
    train-00007.bin     its shard, once it is made
    train-00007.json    its `Piece`, written after the shard

`commit` moves the shards that follow the last one of `progress.json` to their places, in order. Every process commits
after each shard, so nothing depends on one of them. Where file locks do not hold, groups are made twice, with the same
bytes.
"""

import dataclasses
import fcntl
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import IO

import numpy as np

from saemd.activations.disk.manifest import (
    MANIFEST,
    PROGRESS,
    SPLITS,
    Origin,
    Piece,
    Progress,
    Shard,
    SplitName,
    read_manifest,
    read_piece,
    read_progress,
    write_json,
)
from saemd.activations.disk.remote import check_shards, make_room
from saemd.activations.disk.shards import check_size, disk_bytes, write_shard
from saemd.errors import UserError
from saemd.files import remove_partial, replacing
from saemd.locks import locked, try_lock
from saemd.remote import mirror

UNFINISHED = ".unfinished"  # with a dot: of a cache in a store it stays on this machine
Keep = Callable[[SplitName, str, np.ndarray], str]  # split, file name and bfloat16 bits [N, D] of a shard → its sha256


class MemoryLedger:
    """One process makes all groups, in order. `keep` gets each shard. The methods are those of `FileLedger`."""

    def __init__(self, progress: Progress, keep: Keep) -> None:
        self._progress, self._keep = progress, keep
        self._claims: set[tuple[SplitName, int]] = set()

    def progress(self) -> Progress:
        return self._progress

    def commit(self) -> Progress:
        return self._progress

    def made(self, split: SplitName, number: int) -> Piece | None:
        return None

    def claim(self, split: SplitName, number: int) -> bool:
        is_new = (split, number) not in self._claims
        self._claims.add((split, number))
        return is_new

    def holds(self, split: SplitName, number: int) -> bool:
        return (split, number) in self._claims

    def add(self, split: SplitName, number: int, piece: Piece, bits_ND: np.ndarray) -> Progress:
        if piece.tokens:
            piece = dataclasses.replace(piece, sha256=self._keep(split, piece.file(split), bits_ND))
        self._progress.add(split, piece)
        self._claims.remove((split, number))
        return self._progress

    def release(self) -> None:
        self._claims.clear()


class FileLedger:
    """The groups of a cache that any number of processes write, by split and number. `begin` comes first."""

    def __init__(self, folder: Path, origin: Origin, group_contexts: int, local_bytes: int | None = None) -> None:
        """`group_contexts` is the size of a group, in contexts; `local_bytes` bounds what a store's cache has here."""
        self.folder, self.origin, self._size, self.local_bytes = folder, origin, group_contexts, local_bytes
        self._claims: dict[tuple[SplitName, int], IO[str]] = {}

    def begin(self, lm_dtype: str) -> None:
        """Begin a cache whose language model runs in `lm_dtype`, unless that is done already."""
        with self._committing():
            if self.read() is None:
                shutil.rmtree(self.folder / UNFINISHED, ignore_errors=True)  # of a cache whose progress.json is lost
                write_json(self.folder / PROGRESS, Progress.new(self.origin, lm_dtype))
            if not (self.folder / MANIFEST).is_file():
                (self.folder / UNFINISHED).mkdir(exist_ok=True)

    def read(self) -> Progress | None:
        """The first groups, as far as all are made; None for a cache that has not begun."""
        try:
            if progress := read_progress(self.folder):
                return progress
        except (OSError, UserError):
            if not (self.folder / MANIFEST).is_file():  # else another process has just finished the cache
                raise
        return Progress.of(read_manifest(self.folder)) if (self.folder / MANIFEST).is_file() else None

    def waiting_tokens(self) -> int:
        """Tokens in shards that wait for an earlier one."""
        size = 0
        for file in (self.folder / UNFINISHED).glob("*.bin"):
            with suppress(FileNotFoundError):  # another process has just moved it to its place
                size += file.stat().st_size
        return size // disk_bytes(1, self.origin.d_in)

    def progress(self) -> Progress:
        """The first groups, as far as all are made."""
        progress = self.read()
        assert progress is not None, "begin comes first"
        return progress

    def made(self, split: SplitName, number: int) -> Piece | None:
        """A group that is made and waits for an earlier one."""
        return read_piece(self._file(split, number, "json"))

    def claim(self, split: SplitName, number: int) -> bool:
        """From now on this process makes the group. False for one that is made, or claimed by any process."""
        if self.holds(split, number):
            return False
        try:
            file = open(self._file(split, number, "lock"), "w")  # noqa: SIM115 - it is open as long as the claim holds
        except FileNotFoundError:  # another process has finished the cache and removed the folder
            return False
        if not try_lock(file, fcntl.LOCK_EX):
            file.close()
            return False
        self._claims[split, number] = file
        # Looked at behind the lock, and in this order: a piece that is gone from its file is in the progress.
        if self.made(split, number) is None:
            progress = self.progress()
            if not progress.is_complete(self.origin, split) and progress.groups(split, self._size) <= number:
                return True
        self._unlock(split, number)
        return False

    def holds(self, split: SplitName, number: int) -> bool:
        """Whether this process has claimed the group, and has not added it yet."""
        return (split, number) in self._claims

    def add(self, split: SplitName, number: int, piece: Piece, bits_ND: np.ndarray) -> Progress:
        """Keep a claimed group's shard, if it has tokens, and commit."""
        if piece.tokens:
            if self.local_bytes is not None:
                make_room(bits_ND.nbytes, self.local_bytes)
            piece = dataclasses.replace(piece, sha256=write_shard(self._file(split, number, "bin"), bits_ND))
        return self._added(split, number, piece)

    def take(self, split: SplitName, number: int, piece: Piece, shard: Path) -> Progress:
        """As `add`, of a shard that another cache has: linked where the disk can do so, and else copied."""
        made = self._file(split, number, "bin")
        made.unlink(missing_ok=True)  # of a process that was killed before it wrote the piece
        try:
            os.link(shard, made)
        except OSError:
            with replacing(made) as partial:
                shutil.copyfile(shard, partial)
        return self._added(split, number, piece)

    def release(self) -> None:
        """Give back the claims on groups that have not been added."""
        for split, number in list(self._claims):
            self._unlock(split, number)

    def commit(self) -> Progress:
        """As `progress`, with all that has been made by now. The process of the last piece writes the manifest."""
        with self._committing():
            progress = self.progress()
            if (self.folder / MANIFEST).is_file():
                return progress
            added: dict[SplitName, list[int]] = {split: self._add_made(split, progress) for split in SPLITS}
            if any(added.values()):
                write_json(self.folder / PROGRESS, progress)
            for split, numbers in added.items():
                for number in numbers:
                    self._remove(split, number, "lock", "json")
            is_complete = all(progress.is_complete(self.origin, split) for split in SPLITS)
            if is_complete and all(split.tokens for split in progress.splits.values()):
                write_json(self.folder / MANIFEST, progress.manifest(self.origin))
                mirror.remove(self.folder / PROGRESS)
                remove_partial(self.folder)  # written within this lock alone, so these are of killed processes
        return progress

    def close(self) -> None:
        """Remove what is not needed in a finished cache."""
        if (self.folder / MANIFEST).is_file():
            shutil.rmtree(self.folder / UNFINISHED, ignore_errors=True)  # another process may do the same

    def _add_made(self, split: SplitName, progress: Progress) -> list[int]:
        """Add a split's next pieces to `progress`, and move their shards. Returns the groups' numbers."""
        numbers = list[int]()
        while not progress.is_complete(self.origin, split):
            number = progress.groups(split, self._size)
            if (piece := self.made(split, number)) is None:
                break
            if not progress.fits(piece, self.origin, split):  # an earlier group has no token, which nobody foresaw
                self._remove(split, number, "json", "bin")
                break
            if piece.tokens:
                self._move(self._file(split, number, "bin"), Shard(piece.file(split), piece.tokens, piece.sha256))
            progress.add(split, piece)
            numbers.append(number)
        return numbers

    def _move(self, made: Path, shard: Shard) -> None:
        """Give a shard its place, also in the store."""
        with suppress(FileNotFoundError):  # it was moved before a kill
            os.replace(made, self.folder / shard.file)
        if self.local_bytes is not None and not (self.folder / shard.file).is_file():  # its room was needed since then
            check_shards(self.folder, [shard], self.origin.d_in)
            return
        check_size(self.folder / shard.file, shard.tokens, self.origin.d_in)
        mirror.push(self.folder / shard.file)

    def _added(self, split: SplitName, number: int, piece: Piece) -> Progress:
        write_json(self._file(split, number, "json"), piece)
        self._unlock(split, number)
        return self.commit()

    def _committing(self) -> AbstractContextManager[None]:
        return locked(self.folder.with_name(f".{self.folder.name}.commit.lock"))

    def _file(self, split: SplitName, number: int, suffix: str) -> Path:
        return self.folder / UNFINISHED / f"{split}-{number:05d}.{suffix}"

    def _unlock(self, split: SplitName, number: int) -> None:
        with self._claims.pop((split, number)) as file:
            fcntl.flock(file, fcntl.LOCK_UN)  # closing alone would leave it to a forked child

    def _remove(self, split: SplitName, number: int, *suffixes: str) -> None:
        for suffix in suffixes:
            self._file(split, number, suffix).unlink(missing_ok=True)


Ledger = MemoryLedger | FileLedger
