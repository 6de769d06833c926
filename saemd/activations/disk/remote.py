"""A cache in an object store: its shards are read in blocks, which this machine keeps until others need their room.

The first batch waits for its own blocks alone. Threads fetch the blocks that the stream will want, up to one window
ahead. A shard that is complete is checked and kept for later epochs and runs.
"""

import errno
import os
import secrets
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np

from saemd.activations.config import ActivationsConfig
from saemd.activations.disk.cache import ActivationCache
from saemd.activations.disk.manifest import MANIFEST, PROGRESS, Manifest, Shard
from saemd.activations.disk.order import Part
from saemd.activations.disk.shards import ShardFile, check_content, count_non_finite, disk_bytes
from saemd.activations.sizes import human
from saemd.activations.streams.stream import Maker
from saemd.errors import UserError, bad_value
from saemd.remote import mirror, store
from saemd.remote.urls import CACHE_ROOT, local_root, upload_url

BLOCK_BYTES = 1 << 22  # of one request
THREADS = 8
Work = tuple["RemoteShard", int]  # a block to fetch, by its number


def is_remote(folder: Path) -> bool:
    return upload_url(folder) is not None


def fetch_records(folder: Path) -> None:
    """Make manifest and progress of a cache in a store those of the store. A cache on disk is left as it is."""
    if is_remote(folder):
        for name in (MANIFEST, PROGRESS):
            mirror.fetch(folder / name)


def fetch_named(root: Path, pattern: str) -> None:
    """As `fetch_records`, for every cache below the folder `root` of a store whose name fits the pattern."""
    if url := upload_url(root):
        fs, path = store.opened(url)
        for manifest in store.retried(url, lambda: fs.glob(f"{path}/{pattern}/{MANIFEST}")):
            fetch_records(root / manifest.split("/")[-2])


def check_shards(folder: Path, shards: list[Shard], d_in: int) -> None:
    """Raise `UserError` where the store misses a shard, or has one of another size."""
    url, found = upload_url(folder), store.listed(str(upload_url(folder)))
    for shard in shards:
        expected = disk_bytes(shard.tokens, d_in)
        size = found.get(shard.file, {"size": "no"})["size"]
        if size != expected:
            what = f"the store has {size} bytes of it instead of {expected:,}"
            raise UserError(f"{url}/{shard.file}: {what}; delete {url} and write the cache again")


def make_room(needed: int, bound: int, kept: frozenset[Path] = frozenset()) -> None:
    """Remove the local copies of shards that were used longest ago, until `needed` bytes more stay within `bound`."""
    files = []
    for path in (local_root() / CACHE_ROOT).glob("*/*/activations/*/*.bin"):
        with suppress(FileNotFoundError):  # another process has removed it
            status = path.stat()
            files.append((max(status.st_atime_ns, status.st_mtime_ns), status.st_size, path))
    total = needed + sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total > bound and path not in kept:
            path.unlink(missing_ok=True)
            total -= size


class RemoteShard(ShardFile):
    """A shard whose blocks are fetched when they are asked for, into a file with holes. Several threads may read it.

    Once complete and checked, the file gets the shard's name, so that other processes find it.
    """

    def __init__(self, folder: Path, shard: Shard, d_in: int) -> None:
        self.folder, self.shard = folder, shard
        partial = folder / f".partial-{secrets.token_hex(4)}-{shard.file}"
        self.bytes = disk_bytes(shard.tokens, d_in)
        with open(partial, "xb") as file:
            file.truncate(self.bytes)
        super().__init__(partial, shard.tokens, d_in, shard.sha256)
        self._url, self._writing = f"{upload_url(folder)}/{shard.file}", os.open(partial, os.O_WRONLY)
        weakref.finalize(self, os.close, self._writing).atexit = False
        weakref.finalize(self, partial.unlink, missing_ok=True)  # an incomplete one is of no use to other processes
        self._states: list[threading.Event | None] = [None] * -(-self.bytes // BLOCK_BYTES)  # None: nobody fetches it
        self._lock, self._missing = threading.Lock(), len(self._states)
        self.error: Exception | None = None

    def check(self, first: int = 0, tokens: int | None = None) -> None:
        """Wait for these tokens, all by default. Raises `UserError` where they cannot be had, or are damaged."""
        for block in self.blocks(first, tokens):
            self.fetch(block)
            if state := self._states[block]:
                state.wait()
            if self.error:
                raise self.error

    def blocks(self, first: int = 0, tokens: int | None = None) -> range:
        """The numbers of the blocks that hold these tokens."""
        end = disk_bytes(first + (self.tokens - first if tokens is None else tokens), self.d_in)
        return range(disk_bytes(first, self.d_in) // BLOCK_BYTES, -(-end // BLOCK_BYTES))

    def has_begun(self, block: int) -> bool:
        return self._states[block] is not None

    def fetch(self, block: int) -> None:
        """Fetch a block, unless a thread has begun to. `check` raises the error of any block."""
        with self._lock:
            if self._states[block] or self.error:
                return
            done = self._states[block] = threading.Event()
        try:
            self._fetch(block)
            with self._lock:
                self._missing -= 1
                is_last = not self._missing
            if is_last:
                self._complete()
        except Exception as error:
            self.error = error
        finally:
            done.set()

    def _fetch(self, block: int) -> None:
        start, end = block * BLOCK_BYTES, min((block + 1) * BLOCK_BYTES, self.bytes)
        fs, path = store.opened(self._url)

        def get() -> bytes:
            content = fs.cat_file(path, start=start, end=end)
            if len(content) != end - start:
                raise ConnectionError(f"{len(content):,} of {end - start:,} bytes arrived")
            return content

        content = store.retried(self._url, get)
        if os.pwrite(self._writing, content, start) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        if bad := count_non_finite(np.frombuffer(content, dtype="<u2")):
            raise UserError(f"{self._url}: {bad:,} activations are NaN or infinite; write the cache again")

    def _complete(self) -> None:
        """Check the whole file, and give it the shard's name."""
        try:
            check_content(self.path, self.tokens, self.d_in, self.sha256)
            os.replace(self.path, self.folder / self.shard.file)
        except (UserError, FileNotFoundError):
            if not self.path.exists():  # its room was needed for another shard; `fd` still reads it
                return
            self.path.unlink(missing_ok=True)
            what = "its checksum is not the manifest's: corrupt or of another cache"
            raise UserError(f"{self._url}: {what}; delete the cache there and write it again") from None


class RemoteCache(ActivationCache):
    """Activations in a store, as `ActivationCache`: the same batches. At most `local_bytes` of them lie on the disk."""

    def __init__(self, path: Path, manifest: Manifest, verify: bool, local_bytes: int, **reading: int) -> None:
        super().__init__(path, manifest, verify, **reading)
        self.local_bytes, window_tokens = local_bytes, self.window_tokens
        shards = [shard for split in manifest.splits.values() for shard in split.shards]
        largest = max(shard.tokens for shard in shards)
        self._room = local_bytes // disk_bytes(largest, self.d_in)  # shards
        live = min(-(-window_tokens // largest) + 3, len(shards))  # a window begins and ends within a shard
        if self._room < live:
            needed = disk_bytes(live * largest, self.d_in)
            remedy = f"a window of activations.window_tokens={window_tokens:,} needs {human(needed)}; raise it"
            raise bad_value("activations.local_gigabytes", f"{local_bytes / 1e9:g}", remedy)
        is_whole = self._room >= len(shards)
        self._ahead_tokens = window_tokens if is_whole else min(window_tokens, (self._room - live) * largest)
        self._open: OrderedDict[Shard, ShardFile] = OrderedDict()
        self._opening, self._work = threading.Lock(), SimpleQueue[Work | None]()
        self._has_threads = False

    def check_shards(self) -> None:
        shards = [shard for split in self.manifest.splits.values() for shard in split.shards]
        check_shards(self.path, shards, self.d_in)

    def makers(self, batches: Iterator[list[Part]], batch_size: int, raw: bool) -> Iterator[Maker]:
        return super().makers(self._fetched_ahead(batches, self._ahead_tokens // batch_size), batch_size, raw)

    def opened(self, shard: Shard) -> ShardFile:
        with self._opening:
            if shard not in self._open:
                while len(self._open) >= self._room:
                    old, file = self._open.popitem(last=False)
                    for path in (file.path, self.path / old.file):
                        path.unlink(missing_ok=True)
                self._open[shard] = self._file(shard)
            self._open.move_to_end(shard)
            return self._open[shard]

    def bits(self, shard: Shard) -> np.ndarray:
        self._ask(Part(shard, 0, shard.tokens))
        return super().bits(shard)

    def _file(self, shard: Shard) -> ShardFile:
        path, size = self.path / shard.file, disk_bytes(shard.tokens, self.d_in)
        if path.is_file() and path.stat().st_size == size:
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
            return ShardFile(path, shard.tokens, self.d_in, shard.sha256 if self.verify else None)
        kept = {path for old, file in self._open.items() for path in (file.path, self.path / old.file)}
        make_room(size, self.local_bytes, frozenset(kept))
        return RemoteShard(self.path, shard, self.d_in)

    def _fetched_ahead(self, batches: Iterator[list[Part]], ahead: int) -> Iterator[list[Part]]:
        """The batches, each after threads were asked for the `ahead` ones behind it."""
        coming: deque[list[Part]] = deque()
        for parts in batches:
            for part in parts:
                self._ask(part)
            coming.append(parts)
            if len(coming) > ahead:
                yield coming.popleft()
        yield from coming

    def _ask(self, part: Part) -> None:
        """Have the blocks of these tokens fetched."""
        if not self._has_threads:
            self._has_threads = True
            for _ in range(THREADS):
                threading.Thread(target=_fetch_blocks, args=(self._work,), name="store", daemon=True).start()
            weakref.finalize(self, _stop, self._work)
        file = self.opened(part.shard)
        if isinstance(file, RemoteShard):
            for block in file.blocks(part.first, part.tokens):
                if not file.has_begun(block):
                    self._work.put((file, block))


def _fetch_blocks(work: SimpleQueue[Work | None]) -> None:
    while item := work.get():
        file, block = item
        file.fetch(block)


def _stop(work: SimpleQueue[Work | None]) -> None:
    """End the threads, and leave what they have not begun."""
    while not work.empty():
        with suppress(Empty):
            work.get_nowait()
    for _ in range(THREADS):
        work.put(None)


def open_cache(folder: Path, config: ActivationsConfig) -> ActivationCache:
    """The finished cache in `folder`, which may be a store's. Raises `UserError`; see `ActivationCache.open`."""
    reading = {"window_tokens": config.window_tokens, "prefetch_batches": config.prefetch_batches}
    if is_remote(folder):
        return RemoteCache.open(folder, verify=True, **reading, local_bytes=int(1e9 * config.local_gigabytes))
    return ActivationCache.open(folder, verify=True, **reading)
