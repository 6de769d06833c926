"""Shards of a finished cache of the same text, taken over by one of more or fewer tokens instead of made again.

A shard depends on the contexts up to its own alone. So caches that differ only in `tokens` and `heldout_tokens` have
the same shards, up to the one in which the shorter ends. The files are linked where the disk can do so, else copied.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from saemd.activations.disk.manifest import MANIFEST, SPLITS, Manifest, Origin, Piece, SplitName, read_manifest
from saemd.activations.disk.remote import is_remote
from saemd.activations.disk.shards import ShardFile
from saemd.activations.disk.statistics import norms, shard_sums
from saemd.activations.harvest.groups import Groups
from saemd.activations.harvest.ledger import FileLedger
from saemd.activations.harvest.sharding import Contexts
from saemd.errors import UserError
from saemd.progress import print_line


class Other(NamedTuple):
    """A finished cache, and how many of the first shards of each split another one has too."""

    folder: Path
    manifest: Manifest
    shards: dict[SplitName, int]

    def tokens(self) -> int:
        splits = self.manifest.splits
        return sum(shard.tokens for name, n in self.shards.items() for shard in splits[name].shards[:n])


def find_other(folder: Path, origin: Origin, lm_dtype: str, group_contexts: int) -> Other | None:
    """Of the finished caches beside `folder`, the one that has most of the shards that `origin` asks for.

    Their language model ran in `lm_dtype`.
    """
    found = list[Other]()
    for path in [] if is_remote(folder) else sorted(folder.parent.glob(f"*-layer{origin.layer}-*/{MANIFEST}")):
        try:
            manifest = read_manifest(path.parent)
        except (UserError, OSError):  # nothing is lost: the cache is written without it
            continue
        if path.parent == folder or manifest.lm_dtype != lm_dtype:
            continue
        if shards := shared_shards(manifest, origin, group_contexts):
            found.append(Other(path.parent, manifest, shards))
    return max(found, key=Other.tokens, default=None)


def shared_shards(manifest: Manifest, origin: Origin, group_contexts: int) -> dict[SplitName, int] | None:
    """How many of the first shards of a cache are as `origin` asks for; None where not even the first one is.

    The first one of the training tokens gives the limit for outliers, which holds for all others.
    """
    sizes = {"tokens": origin.tokens, "heldout_tokens": origin.heldout_tokens}
    if dataclasses.replace(manifest.origin, **sizes).fingerprint != origin.fingerprint:
        return None
    shared = dict[SplitName, int]()
    for name in SPLITS:
        split, wanted = manifest.splits[name], (manifest.origin.wanted(name), origin.wanted(name))
        if len(split.shards) != -(-split.contexts // group_contexts):
            return None  # a group of contexts gave no shard, so the shards' numbers are not those of the groups
        tokens = np.cumsum([shard.tokens for shard in split.shards])  # up to the end of each
        ends_alike = wanted[0] == wanted[1] or split.tokens < min(wanted)  # or: the corpus ends before both
        shared[name] = len(split.shards) if ends_alike else int((tokens[:-1] < wanted[1]).sum())
    return shared if shared["train"] else None


def take_shards(ledger: FileLedger, other: Other, contexts: Contexts, group_contexts: int) -> None:
    """Take the shards of `other` over that nobody has made yet, and say so.

    One whose checksum is not right is not used, nor are those behind it: they are made by the language model.
    """
    taken = 0
    for name in SPLITS:
        first = ledger.progress().groups(name, group_contexts)
        if first >= other.shards[name]:  # all are there; reading their text again would be for nothing
            continue
        wanted = ledger.origin.wanted(name)
        for number, piece in _pieces(other, name, wanted, first, contexts, group_contexts):
            path = other.folder / piece.file(name)
            if ledger.claim(name, number):
                try:
                    bits_ND = _read(path, piece, other.manifest.origin.d_in)
                    if name == "train":
                        piece.sums = shard_sums(bits_ND, norms(bits_ND))
                    ledger.take(name, number, piece, path)
                except (UserError, FileNotFoundError) as error:  # damaged, or deleted meanwhile
                    ledger.release()
                    print_line(f"not taken over: {error}")
                    break
                taken += piece.tokens
    if taken:
        print_line(f"{taken:,} tokens are taken over from {other.folder}, which has the same text")


def _pieces(
    other: Other, name: SplitName, wanted: int, first: int, contexts: Contexts, group_contexts: int
) -> Iterator[tuple[int, Piece]]:
    """Number and record, without sums, of each shard of a split from number `first` on, as if it had been made here.

    The split is to have `wanted` tokens. A manifest has the dropped tokens of all shards together; those of one follow
    from its contexts.
    """
    split = other.manifest.splits[name]
    groups, before = Groups(contexts[name], group_contexts, 0), 0
    special, outliers = split.dropped_special, split.dropped_outliers  # of this shard and those behind it
    for number, shard in enumerate(split.shards[: other.shards[name]]):
        group = groups.group(number)
        groups.forget(number)
        is_last = shard is split.shards[-1]  # it may end within a group
        length = split.contexts - number * group_contexts if is_last else group_contexts
        dropped = sum(len(keep_T) for _, keep_T in group.contexts) - group.kept
        piece = Piece(
            index=number,
            missing=wanted - before,
            tokens=shard.tokens,
            sha256=shard.sha256,
            contexts=length,
            dropped_special=special if is_last else dropped,
            dropped_outliers=outliers if is_last else group.kept - shard.tokens,
            ended=length == len(group.contexts) < group_contexts,
            outliers=other.manifest.outliers,
            sums=None,
        )
        special, outliers = special - piece.dropped_special, outliers - piece.dropped_outliers
        before += shard.tokens
        if number >= first:
            yield number, piece


def _read(path: Path, piece: Piece, d_in: int) -> np.ndarray:
    """The shard's bits [N, D]. Raises `UserError` where the file is not the one that was written."""
    shard = ShardFile(path, piece.tokens, d_in, piece.sha256)
    shard.check()
    bits_ND = np.empty((piece.tokens, d_in), np.uint16)
    shard.read(0, bits_ND)
    return bits_ND
