"""The records in a cache's folder. `manifest.json` is written last, so a cache that has one is finished.

While a cache is being written, `progress.json` holds the same for the first shards, and what resuming needs. A shard
that is finished before an earlier one has a `Piece` of its own until then.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from saemd.activations.config import RESIDUAL
from saemd.activations.disk.statistics import Statistics, Sums
from saemd.checksums import with_checksum
from saemd.errors import UserError
from saemd.files import DamagedFileError, read_json, write_text
from saemd.shaped import shaped

FORMAT = 1
MANIFEST, PROGRESS = "manifest.json", "progress.json"
SplitName = Literal["train", "heldout"]
SPLITS: tuple[SplitName, ...] = ("train", "heldout")


@dataclass(frozen=True)
class Origin:
    """What decides a cache's content."""

    lm: str
    lm_fingerprint: str
    layer: int  # decoder layer, from 0
    d_in: int
    corpus: str
    corpus_fingerprint: str
    context_length: int
    tokens: int  # as configured; the corpus may have fewer
    heldout_tokens: int
    shard_tokens: int
    outlier_factor: float | None
    lm_dtype: str  # as configured, "auto" included: a machine where another dtype is faster uses the same cache
    part: str | None = None  # of the training documents, as 0/2; None: all
    hook: str = RESIDUAL  # of saemd.activations.config.HOOKS: what of the layer is cached

    @property
    def fingerprint(self) -> str:
        """sha256 of all fields but the two names, which their fingerprints represent."""
        values = {key: value for key, value in dataclasses.asdict(self).items() if key not in ("lm", "corpus")}
        for key, earlier in (("part", None), ("hook", RESIDUAL)):
            if values[key] == earlier:  # of a cache that an earlier version may have written, without these fields
                del values[key]
        return hashlib.sha256(json.dumps({"format": FORMAT, **values}, sort_keys=True).encode()).hexdigest()

    @property
    def whole_fingerprint(self) -> str:
        """The fingerprint that all parts of the documents have in common: that of no part."""
        return dataclasses.replace(self, part=None).fingerprint

    def wanted(self, split: SplitName) -> int:
        """Tokens of a split, as configured."""
        return self.tokens if split == "train" else self.heldout_tokens


@dataclass(frozen=True)
class Shard:
    file: str
    tokens: int
    sha256: str


@dataclass
class Split:
    """One split's shards, and the tokens left out of them. `contexts` were run through the language model."""

    tokens: int = 0
    contexts: int = 0
    dropped_special: int = 0  # tokens: BOS, EOS
    dropped_outliers: int = 0  # tokens: norm above the limit
    shards: list[Shard] = field(default_factory=list)


@dataclass
class Outliers:
    """Tokens whose norm exceeds `limit` = factor · median norm of the first shard's tokens are dropped."""

    factor: float | None
    median_norm: float
    limit: float | None

    @property
    def limit_or_inf(self) -> float:
        return float("inf") if self.limit is None else self.limit


@dataclass
class Manifest:
    """A finished cache."""

    fingerprint: str
    origin: Origin
    lm_dtype: str  # in which the language model ran
    outliers: Outliers
    splits: dict[SplitName, Split]  # "train", "heldout"
    statistics: Statistics  # of the training tokens
    versions: dict[str, str]
    dtype: str = "bfloat16"
    format: int = FORMAT


@dataclass
class Piece:
    """What one group of contexts gives: a shard, or none if no token is kept, and what is counted with it."""

    index: int  # of the shard in its split; it decides the permutation
    missing: int | None  # tokens that the split had room for, at most; None: not known, all the group's are in it
    tokens: int
    sha256: str  # of the shard
    contexts: int
    dropped_special: int
    dropped_outliers: int
    ended: bool  # the corpus has no more contexts
    outliers: Outliers  # the rule for them
    sums: dict[str, Any] | None  # `shard_sums` of training tokens

    def file(self, split: SplitName) -> str:
        return f"{split}-{self.index:05d}.bin"


@dataclass
class Progress:
    """A cache that is being written: its first shards, without a gap."""

    fingerprint: str
    lm_dtype: str
    outliers: Outliers | None  # None until the first shard
    splits: dict[SplitName, Split]
    ended: dict[SplitName, bool]  # the corpus has no more contexts of the split
    sums: dict[str, Any]  # `Sums.to_json`
    format: int = FORMAT

    @classmethod
    def new(cls, origin: Origin, lm_dtype: str) -> Progress:
        splits: dict[SplitName, Split] = {split: Split() for split in SPLITS}
        return cls(
            origin.fingerprint, lm_dtype, None, splits, dict.fromkeys(SPLITS, False), Sums.zero(origin.d_in).to_json()
        )

    @classmethod
    def of(cls, manifest: Manifest) -> Progress:
        """That of a finished cache, but for its sums."""
        ended = dict.fromkeys(SPLITS, True)
        return cls(manifest.fingerprint, manifest.lm_dtype, manifest.outliers, manifest.splits, ended, {})

    def groups(self, split: SplitName, size: int) -> int:
        """How many groups of `size` contexts are in it."""
        return self.splits[split].contexts // size

    def is_complete(self, origin: Origin, split: SplitName) -> bool:
        return self.ended[split] or self.splits[split].tokens >= origin.wanted(split)

    def fits(self, piece: Piece, origin: Origin, split: SplitName) -> bool:
        """Whether the piece is what one process alone would make next: its guesses about earlier groups were right."""
        missing = origin.wanted(split) - self.splits[split].tokens
        is_right = piece.tokens < missing if piece.missing is None else piece.missing == missing
        return is_right and piece.index == len(self.splits[split].shards)

    def add(self, name: SplitName, piece: Piece) -> None:
        """Append a split's next piece."""
        split = self.splits[name]
        if piece.tokens:
            split.shards.append(Shard(piece.file(name), piece.tokens, piece.sha256))
        if piece.sums is not None:
            sums = Sums.from_json(self.sums)
            sums.add_shard(piece.sums)
            self.sums = sums.to_json()
        split.tokens += piece.tokens
        split.contexts += piece.contexts
        split.dropped_special += piece.dropped_special
        split.dropped_outliers += piece.dropped_outliers
        self.ended[name] = piece.ended
        self.outliers = self.outliers or piece.outliers

    def manifest(self, origin: Origin) -> Manifest:
        """What is recorded of the shards when both splits are complete."""
        assert self.outliers is not None
        return Manifest(
            fingerprint=origin.fingerprint,
            origin=origin,
            lm_dtype=self.lm_dtype,
            outliers=self.outliers,
            splits=self.splits,
            statistics=Sums.from_json(self.sums).statistics(),
            versions={name: importlib.metadata.version(name) for name in ("torch", "transformers", "numpy")},
        )


def write_json(path: Path, value: Any) -> None:
    """A dataclass as JSON with its checksum (see `saemd.files.replacing`)."""
    write_text(path, json.dumps(with_checksum(dataclasses.asdict(value)), indent=1))


def read_manifest(folder: Path) -> Manifest:
    """Raises `UserError` where there is no finished cache, or one this version cannot read."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder}: no finished activation cache (no {MANIFEST}); write it with python -m saemd.cache")
    manifest = _read(path, Manifest)
    statistics, origin = manifest.statistics, manifest.origin
    if len(statistics.mean) != origin.d_in or not math.isfinite(origin.d_in * statistics.mean_squared_norm):
        raise _unreadable(path, f"has a mean of width {len(statistics.mean)}, not {origin.d_in}")
    return manifest


def read_progress(folder: Path) -> Progress | None:
    """None where nothing has been written yet. Raises `UserError` for a file that cannot be gone on from."""
    path = folder / PROGRESS
    if not path.is_file():
        return None
    progress = _read(path, Progress)
    try:
        if Sums.from_json(progress.sums).tokens != progress.splits["train"].tokens:
            raise ValueError("of other tokens")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _unreadable(path, f"has other sums than it should ({error})") from error
    return progress


def read_piece(path: Path) -> Piece | None:
    """None where there is none. Raises `UserError` for a file that cannot be read."""
    try:
        return shaped(Piece, read_json(path, "delete it and start again"))
    except DamagedFileError as error:
        if isinstance(error.__cause__, FileNotFoundError):  # asking for the file now may find one made since then
            return None  # there was none, or another process has just added it to progress.json
        raise
    except ValueError as error:
        raise DamagedFileError(path, f"is no record of a shard ({error})", "delete it and start again") from error


T = TypeVar("T", Manifest, Progress)


def _read(path: Path, kind: type[T]) -> T:
    saved = read_json(path, _remedy(path))
    if not isinstance(saved, dict) or saved.get("format") != FORMAT:
        raise _unreadable(path, f"is not of format {FORMAT}")
    try:
        record = shaped(kind, saved)
    except ValueError as error:
        raise _unreadable(path, f"is no record of an activation cache ({error})") from error
    for name in SPLITS:
        split = record.splits.get(name)
        if split is None or sum(shard.tokens for shard in split.shards) != split.tokens:
            raise _unreadable(path, f"has a {name} split whose shards are not all there")
        if min([split.contexts, *(shard.tokens for shard in split.shards)]) < 0:
            raise _unreadable(path, f"has a {name} split with a negative number")
    return record


def _unreadable(path: Path, what: str) -> UserError:
    return DamagedFileError(path, what, _remedy(path))


def _remedy(path: Path) -> str:
    return f"delete {path.parent} and write the cache again"
