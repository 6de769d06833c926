"""Writing a cache: shards, and at the end `manifest.json`. One that was killed and resumed has the same bytes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from saemd.activations.config import HarvestConfig
from saemd.activations.manifest import (
    MANIFEST,
    PROGRESS,
    SPLITS,
    Origin,
    Progress,
    SplitName,
    read_progress,
    write_json,
)
from saemd.activations.sharding import Context, Forward, Sharder, without_context
from saemd.activations.shards import check_size, disk_bytes, write_shard
from saemd.activations.sizes import human
from saemd.errors import UserError, bad_value
from saemd.files import check_writable, remove_partial
from saemd.locks import locked
from saemd.progress import bar, print_line

_HEADROOM = 1.05  # of free disk over what the cache needs


def write_cache(
    folder: Path,
    origin: Origin,
    config: HarvestConfig,
    contexts: Mapping[SplitName, Callable[[], Iterator[Context]]],
    forward: Forward,
    lm_dtype: str,
    workers: int = 1,
) -> None:
    """Write, or resume writing, the cache of `origin` in `folder`. A finished cache stays as it is.

    `contexts["train"]()` and `contexts["heldout"]()` return the contexts in a fixed order, from the first one. The
    caller holds `lock(folder)`. With more than one worker, as many threads call `forward` at the same time.

    Raises `UserError` for too little disk, a folder that cannot be written, a corpus without a whole context, and
    activations that are NaN, infinite or of another width.
    """
    if (folder / MANIFEST).is_file():
        return
    progress = read_progress(folder) or Progress.new(origin, lm_dtype)
    if progress.fingerprint != origin.fingerprint:
        raise UserError(f"{folder}: a half-written cache of something else; delete it and start again")
    for split in progress.splits.values():
        for shard in split.shards:
            check_size(folder / shard.file, shard.tokens, origin.d_in)
    done = sum(split.tokens for split in progress.splits.values())
    if folder.is_dir():
        check_writable(folder)
        remove_partial(folder)
    _check_disk(folder, origin, done)
    if not done:
        refuse_empty(origin, contexts)
    folder.mkdir(parents=True, exist_ok=True)

    def keep(_: SplitName, file: str, bits_ND: np.ndarray) -> str:
        return write_shard(folder / file, bits_ND)

    def save() -> None:
        write_json(folder / PROGRESS, progress)

    with bar("activations", origin.tokens + origin.heldout_tokens, done, "tokens") as progress_bar:
        sharder = Sharder(origin, config, progress, forward, progress_bar, keep, save, workers)
        for split in SPLITS:
            sharder.add_split(split, contexts[split])
    write_json(folder / MANIFEST, sharder.manifest())
    (folder / PROGRESS).unlink()
    say_if_short(origin, progress, "the cache is finished with these")


def lock(folder: Path) -> AbstractContextManager[None]:
    """One writer at a time: a second process waits until the first one ends."""
    waiting = f"another process is writing {folder}; waiting for it"
    return locked(folder.with_name(f".{folder.name}.lock"), lambda: print_line(waiting))


def refuse_empty(origin: Origin, contexts: Mapping[SplitName, Callable[[], Iterator[Context]]]) -> None:
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


def _check_disk(folder: Path, origin: Origin, done: int) -> None:
    """Print what will be written. Raises `UserError` where the disk is too small for it."""
    needed = disk_bytes(origin.tokens + origin.heldout_tokens - done, origin.d_in)
    free = shutil.disk_usage(folder.parent).free
    again = f" ({done:,} tokens are written already)" if done else ""
    print_line(
        f"activations of {origin.lm}, layer {origin.layer}, on {origin.corpus}: {origin.tokens:,} + "
        f"{origin.heldout_tokens:,} held-out tokens of width {origin.d_in}, {human(needed)} to write{again}, "
        f"{human(free)} free: {folder}"
    )
    if free < needed * _HEADROOM:
        raise bad_value(
            "activations.tokens",
            origin.tokens,
            f"the cache needs {human(needed * _HEADROOM)} and {folder.parent} has {human(free)} free; "
            "use fewer tokens, or set cache_root to a larger disk",
        )
