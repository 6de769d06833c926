"""Writing a cache: shards, and at the end `manifest.json`. One that was killed and resumed has the same bytes."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from saemd.activations.config import ActivationsConfig, HarvestConfig
from saemd.activations.disk.manifest import SPLITS, Origin, Progress
from saemd.activations.disk.remote import check_shards, is_remote
from saemd.activations.disk.shards import check_size, disk_bytes
from saemd.activations.harvest.kept import Forward, without_context
from saemd.activations.harvest.ledger import UNFINISHED, FileLedger
from saemd.activations.harvest.reuse import find_other, take_shards
from saemd.activations.harvest.sharding import Contexts, Sharder, group_contexts
from saemd.activations.sizes import human
from saemd.errors import UserError, bad_value
from saemd.files import check_writable, remove_partial
from saemd.locks import locked, shared
from saemd.progress import bar, print_line
from saemd.remote.claims import claimed
from saemd.remote.urls import recorded

_HEADROOM = 1.05  # of free disk over what the cache needs


def ledger_of(folder: Path, origin: Origin, config: ActivationsConfig) -> FileLedger:
    local_bytes = int(1e9 * config.local_gigabytes) if is_remote(folder) else None
    return FileLedger(folder, origin, group_contexts(config), local_bytes)


def begin(folder: Path, origin: Origin, config: ActivationsConfig, contexts: Contexts, lm_dtype: str) -> FileLedger:
    """The records of the cache of `origin` in `folder`, new or as far as it is written. They keep the first `lm_dtype`.

    `contexts["train"]()` and `contexts["heldout"]()` return the contexts in a fixed order, from the first one. The
    caller is in `lock(folder)` or `joined(folder)`. Raises `UserError` for too little disk, a folder that cannot be
    written, a cache of something else, and a corpus without a whole context.
    """
    ledger = ledger_of(folder, origin, config)
    progress = ledger.read()
    width = len(progress.sums["values"]) if progress and progress.sums else origin.d_in  # finished: without sums
    if progress and (progress.fingerprint != origin.fingerprint or width != origin.d_in):
        raise UserError(f"{folder}: a half-written cache of something else; delete it and start again")
    splits = progress.splits.values() if progress else ()
    for split in splits:
        if is_remote(folder):
            check_shards(folder, split.shards, origin.d_in)
            continue
        for shard in split.shards:
            check_size(folder / shard.file, shard.tokens, origin.d_in)
    if folder.is_dir():
        check_writable(folder)
    done = sum(split.tokens for split in splits)
    other = find_other(folder, origin, progress.lm_dtype if progress else lm_dtype, group_contexts(config))
    there = max(done + ledger.waiting_tokens(), other.tokens() if other else 0)
    _check_disk(folder, origin, there, ledger.local_bytes)
    if not done:
        refuse_empty(origin, contexts)
    folder.mkdir(parents=True, exist_ok=True)
    ledger.begin(lm_dtype)
    if other:
        take_shards(ledger, other, contexts, group_contexts(config))
    return ledger


def write_shards(
    ledger: FileLedger, config: HarvestConfig, contexts: Contexts, forward: Forward, workers: int = 1
) -> None:
    """Write the shards that a cache lacks, and its manifest. A finished cache stays as it is.

    With more than one worker, as many threads call `forward` at the same time. Raises `UserError` for activations that
    are NaN, infinite or of another width, and for a split without a token.
    """
    origin, progress = ledger.origin, ledger.progress()
    done = sum(split.tokens for split in progress.splits.values())
    with bar("activations", origin.tokens + origin.heldout_tokens, done, "tokens") as progress_bar:
        progress = Sharder(origin, config, ledger, contexts, forward, progress_bar, workers).run()
    ledger.close()
    say_if_short(origin, progress, "the cache is finished with these")


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """One writer at a time: a second process, or a second machine at a store, waits until the first one ends."""
    waiting = partial(print_line, f"another process is writing {folder}; waiting for it")
    with locked(_lock_file(folder), waiting), claimed(folder, lambda line: print_line(f"{line}; waiting for it")):
        yield


def joined(folder: Path, first: Callable[[], object]) -> AbstractContextManager[None]:
    """Several writers at a time. `first` is called while there is no other one. A holder of `lock` is waited for."""
    waiting = f"another process, which writes {folder} alone, is waited for"
    return shared(_lock_file(folder), first, partial(print_line, waiting))


def remove_remains(folder: Path) -> None:
    """Remove what killed processes left half-written in a cache that is not finished. No other process writes it."""
    for part in (folder, folder / UNFINISHED):
        if part.is_dir():
            check_writable(part)
            remove_partial(part)


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def refuse_empty(origin: Origin, contexts: Contexts) -> None:
    """Raise `UserError` for a split without a context: before the language model is run, not after hours of work."""
    for split in SPLITS:
        if next(contexts[split](), None) is None:
            raise without_context(origin, split)


def say_if_short(origin: Origin, progress: Progress, outcome: str) -> None:
    """Print a line for each split of which the corpus has fewer tokens than were asked for."""
    for split in SPLITS:
        if (written := progress.splits[split].tokens) < (wanted := origin.wanted(split)):
            print_line(
                f"corpus={origin.corpus} ended after {written:,} of the {wanted:,} {split} tokens asked for; {outcome}"
            )


def _check_disk(folder: Path, origin: Origin, done: int, local_bytes: int | None) -> None:
    """Print what will be written. Raises `UserError` where the disk is too small for it.

    Of a cache in a store the disk holds at most `local_bytes`.
    """
    needed = disk_bytes(origin.tokens + origin.heldout_tokens - done, origin.d_in)
    free = shutil.disk_usage(folder.parent).free
    again = f" ({done:,} tokens are there already)" if done else ""
    print_line(
        f"activations of {origin.lm}, layer {origin.layer}, on {origin.corpus}: {origin.tokens:,} + "
        f"{origin.heldout_tokens:,} held-out tokens of width {origin.d_in}, {human(needed)} to write{again}, "
        f"{human(free)} free: {recorded(str(folder))}"
    )
    needed = needed if local_bytes is None else min(needed, local_bytes)
    if free < needed * _HEADROOM:
        raise bad_value(
            "activations.tokens",
            origin.tokens,
            f"the cache needs {human(needed * _HEADROOM)} and {folder.parent} has {human(free)} free; "
            "use fewer tokens, or set cache_root to a larger disk",
        )
