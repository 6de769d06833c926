"""What a cache says of itself: `manifest.json`, written last, so that a cache that has one is finished.

While a cache is being written, `progress.json` holds the same for the shards that are done, and what resuming needs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from saemd.activations.statistics import Statistics, Sums
from saemd.errors import UserError
from saemd.files import write_text

FORMAT = 1
MANIFEST, PROGRESS = "manifest.json", "progress.json"
SplitName = Literal["train", "heldout"]
SPLITS: tuple[SplitName, ...] = ("train", "heldout")


@dataclass(frozen=True)
class Origin:
    """Where activations come from: everything that changes what a cache's bytes mean."""

    lm: str
    lm_fingerprint: str
    layer: int  # decoder layer whose output (residual stream) is cached, from 0
    d_in: int
    corpus: str
    corpus_fingerprint: str
    context_length: int
    tokens: int  # asked for; the corpus may have fewer
    heldout_tokens: int
    shard_tokens: int
    outlier_factor: float | None
    lm_dtype: str  # as asked for, "auto" included: a cache is found again on a machine where another dtype is faster

    @property
    def fingerprint(self) -> str:
        """sha256 over all but the names, which other fingerprints stand for."""
        values = {key: value for key, value in dataclasses.asdict(self).items() if key not in ("lm", "corpus")}
        return hashlib.sha256(json.dumps({"format": FORMAT, **values}, sort_keys=True).encode()).hexdigest()

    def wanted(self, split: SplitName) -> int:
        """Tokens asked for of a split."""
        return self.tokens if split == "train" else self.heldout_tokens


@dataclass(frozen=True)
class Shard:
    file: str
    tokens: int
    sha256: str


@dataclass
class Split:
    """One split's shards, and what was left out of them. `contexts` were run through the language model."""

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
    lm_dtype: str  # the dtype the language model really ran in
    outliers: Outliers
    splits: dict[SplitName, Split]  # "train", "heldout"
    statistics: Statistics  # of the training tokens
    versions: dict[str, str]
    dtype: str = "bfloat16"
    format: int = FORMAT


@dataclass
class Progress:
    """A cache that is being written."""

    fingerprint: str
    lm_dtype: str
    outliers: Outliers | None  # None until the first shard
    splits: dict[SplitName, Split]
    ended: dict[SplitName, bool]  # the corpus's split had no more contexts
    sums: dict[str, Any]  # `Sums.to_json`
    format: int = FORMAT

    @classmethod
    def new(cls, origin: Origin, lm_dtype: str) -> Progress:
        splits: dict[SplitName, Split] = {split: Split() for split in SPLITS}
        return cls(
            origin.fingerprint, lm_dtype, None, splits, dict.fromkeys(SPLITS, False), Sums.zero(origin.d_in).to_json()
        )


def write_json(path: Path, value: Any) -> None:
    """A dataclass as JSON (see `saemd.files.replacing`)."""
    write_text(path, json.dumps(dataclasses.asdict(value), indent=1))


def read_manifest(folder: Path) -> Manifest:
    """Raises `UserError` where there is no finished cache, or one this version cannot read."""
    there = _read(folder / MANIFEST)
    try:
        there["origin"] = Origin(**there["origin"])
        there["outliers"] = Outliers(**there["outliers"])
        there["splits"] = _splits(there["splits"])
        there["statistics"] = Statistics(**there["statistics"])
        return Manifest(**there)
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / MANIFEST}: no manifest of an activation cache ({error})") from error


def read_progress(folder: Path) -> Progress | None:
    """None where nothing has been written yet."""
    if not (folder / PROGRESS).is_file():
        return None
    there = _read(folder / PROGRESS)
    try:
        there["outliers"] = Outliers(**there["outliers"]) if there["outliers"] else None
        there["splits"] = _splits(there["splits"])
        return Progress(**there)
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / PROGRESS}: unreadable ({error}); delete {folder} and start again") from error


def _splits(there: dict[SplitName, Any]) -> dict[SplitName, Split]:
    return {name: Split(**{**split, "shards": [Shard(**s) for s in split["shards"]]}) for name, split in there.items()}


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(
            f"{path.parent}: no finished activation cache (no {path.name}); write it with python -m saemd.cache"
        )
    try:
        there = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); delete {path.parent} and write the cache again") from error
    if not isinstance(there, dict) or there.get("format") != FORMAT:
        raise UserError(f"{path}: not of format {FORMAT}; delete {path.parent} and write the cache again")
    return there
