"""Writing a cache: the activations of contexts, shard by shard, and at the end `manifest.json`.

A shard holds the activations of one group of consecutive contexts, permuted. Groups and their batches are fixed by
position, and sums are kept in float64, so a cache that was killed and resumed is the same, byte for byte, as one that
was not. This file knows neither a language model nor a corpus: `saemd.activations.harvest` passes them in.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from saemd.activations.config import ActivationsConfig
from saemd.activations.manifest import (
    MANIFEST,
    PROGRESS,
    SPLITS,
    Manifest,
    Origin,
    Outliers,
    Progress,
    Shard,
    Split,
    SplitName,
    read_progress,
    write_json,
)
from saemd.activations.shards import check_size, count_non_finite, disk_bytes, to_bits, write_shard
from saemd.activations.statistics import Sums, norms
from saemd.errors import UserError, bad_value
from saemd.files import check_writable, remove_partial
from saemd.locks import locked
from saemd.progress import Bar, bar, print_line

Context = tuple[Tensor, Tensor]  # input_ids [T] int64, keep [T] bool: False where a token's activation is not wanted
Forward = Callable[[Tensor], Tensor]  # input_ids [B, T] → activations [B, T, D]

_HEADROOM = 1.05  # of free disk over what the cache needs


def write_cache(
    folder: Path,
    origin: Origin,
    config: ActivationsConfig,
    contexts: Mapping[SplitName, Callable[[], Iterator[Context]]],
    forward: Forward,
    lm_dtype: str,
) -> None:
    """Write, or resume writing, the cache of `origin` in `folder`. A finished cache stays as it is.

    `contexts["train"]()` and `contexts["heldout"]()` return the contexts in a fixed order, from the first one. The
    caller holds `lock(folder)`.

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
        for split in SPLITS:
            if next(contexts[split](), None) is None:  # noticed here, not after hours of work
                raise _empty(origin, split)
    folder.mkdir(parents=True, exist_ok=True)
    with bar("activations", origin.tokens + origin.heldout_tokens, done, "tokens") as progress_bar:
        writer = _Writer(folder, origin, config, progress, forward, progress_bar)
        for split in SPLITS:
            writer.write_split(split, contexts[split])
    assert progress.outliers is not None
    write_json(
        folder / MANIFEST,
        Manifest(
            fingerprint=origin.fingerprint,
            origin=origin,
            lm_dtype=progress.lm_dtype,
            outliers=progress.outliers,
            splits=progress.splits,
            statistics=writer.sums.statistics(),
            versions={name: importlib.metadata.version(name) for name in ("torch", "transformers", "numpy")},
        ),
    )
    (folder / PROGRESS).unlink()
    for split in SPLITS:
        _say_if_short(origin, split, progress.splits[split].tokens)


def lock(folder: Path) -> AbstractContextManager[None]:
    """One writer at a time: a second process waits until the first one ends."""
    waiting = f"another process is writing {folder}; waiting for it"
    return locked(folder.with_name(f".{folder.name}.lock"), lambda: print_line(waiting))


@dataclass
class _Group:
    """The activations collected so far for one shard."""

    bits: list[np.ndarray]  # each [n, D]
    norms: list[np.ndarray]  # each [n]
    contexts: int = 0
    special: int = 0


class _Writer:
    """Writes the shards of both splits; `progress` says which are finished."""

    def __init__(
        self, folder: Path, origin: Origin, config: ActivationsConfig, progress: Progress, forward: Forward, bar: Bar
    ) -> None:
        self.folder, self.origin, self.progress, self.forward, self.bar = folder, origin, progress, forward, bar
        self.sums = Sums.from_json(progress.sums)
        self.shard_contexts = config.shard_tokens // config.context_length
        self.batch_contexts = max(1, config.lm_batch_tokens // config.context_length)
        self.new_tokens, self.started = 0, time.perf_counter()

    def write_split(self, name: SplitName, contexts: Callable[[], Iterator[Context]]) -> None:
        split, wanted = self.progress.splits[name], self.origin.wanted(name)
        if split.tokens >= wanted or self.progress.ended[name]:
            return
        stream = contexts()
        if split.contexts:
            self.bar.note("skipping the contexts that are done")
            next(islice(stream, split.contexts, split.contexts), None)
        while split.tokens < wanted and not self.progress.ended[name]:
            group = self._collect(name, stream, wanted - split.tokens)
            if group.contexts:
                self._finish(name, split, group, wanted - split.tokens)
            if not split.tokens and self.progress.ended[name]:
                raise _empty(self.origin, name, split.contexts)
            self.progress.sums = self.sums.to_json()
            write_json(self.folder / PROGRESS, self.progress)

    def _collect(self, name: SplitName, stream: Iterator[Context], missing: int) -> _Group:
        """The activations of up to a shard's contexts; fewer contexts where they hold all the missing tokens."""
        group = _Group([], [])
        while group.contexts < self.shard_contexts:
            batch = list(islice(stream, min(self.batch_contexts, self.shard_contexts - group.contexts)))
            if not batch:
                self.progress.ended[name] = True
                break
            ids_BT = torch.stack([context[0] for context in batch])
            keep_BT = torch.stack([context[1] for context in batch])
            with torch.inference_mode():
                acts_BTD = self.forward(ids_BT)
                if acts_BTD.shape != (*ids_BT.shape, self.origin.d_in):
                    raise bad_value(
                        "lm", self.origin.lm, f"activations {[*acts_BTD.shape]}, not of width {self.origin.d_in}"
                    )
                bits_ND = to_bits(acts_BTD[keep_BT.to(acts_BTD.device)])
            self._refuse_non_finite(bits_ND, name)
            group.bits.append(bits_ND)
            group.norms.append(norms(bits_ND))
            group.contexts += len(batch)
            group.special += keep_BT.numel() - len(bits_ND)
            self._advance(len(bits_ND))
            kept = np.concatenate(group.norms)
            if (kept <= self._outliers(kept).limit_or_inf).sum() >= missing:
                break
        return group

    def _finish(self, name: SplitName, split: Split, group: _Group, missing: int) -> None:
        """Drop the outliers, keep at most `missing` tokens, permute them, write the shard, and record it."""
        norms_N = np.concatenate(group.norms)
        if self.progress.outliers is None:
            self.progress.outliers = self._outliers(norms_N)
        inside = np.flatnonzero(norms_N <= self.progress.outliers.limit_or_inf)
        kept = inside[:missing]
        last = kept[-1] if len(inside) > missing else len(norms_N) - 1  # tokens after the last one kept are not counted
        if len(kept):
            index = len(split.shards)
            kept = np.random.default_rng([SPLITS.index(name), index]).permutation(kept)
            bits_ND = np.concatenate(group.bits)[kept]
            file = f"{name}-{index:05d}.bin"
            split.shards.append(Shard(file, len(kept), write_shard(self.folder / file, bits_ND)))
            if name == "train":
                self.sums.add(bits_ND, norms_N[kept])
        split.tokens += len(kept)
        split.contexts += group.contexts
        split.dropped_special += group.special
        split.dropped_outliers += int((norms_N[: last + 1] > self.progress.outliers.limit_or_inf).sum())

    def _outliers(self, norms_N: np.ndarray) -> Outliers:
        """The rule. Before the first shard is written, it follows from that shard's tokens so far."""
        if self.progress.outliers is not None:
            return self.progress.outliers
        median = float(np.median(norms_N)) if len(norms_N) else 0.0
        factor = self.origin.outlier_factor
        return Outliers(factor, median, None if factor is None else factor * median)

    def _refuse_non_finite(self, bits_ND: np.ndarray, name: SplitName) -> None:
        if bad := count_non_finite(bits_ND):
            file = f"{name}-{len(self.progress.splits[name].shards):05d}.bin"
            raise bad_value(
                "activations.lm_dtype",
                self.progress.lm_dtype,
                f"{bad:,} of {bits_ND.size:,} values for {file} are NaN or infinite; use float32, or another layer",
            )

    def _advance(self, tokens: int) -> None:
        self.new_tokens += tokens
        self.bar.advance(tokens)
        self.bar.note(f"{self.new_tokens / (time.perf_counter() - self.started):,.0f} tokens/s")


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


def _empty(origin: Origin, split: SplitName, contexts: int = 0) -> UserError:
    if contexts:
        reason = f"all tokens of its {contexts:,} {split} contexts are special tokens or outliers"
        return bad_value("corpus", origin.corpus, f"{reason}; use text that the tokenizer of {origin.lm} knows")
    fraction = " a larger corpus.heldout_fraction," if split == "heldout" else ""
    reason = f"its {split} documents fill no context of {origin.context_length} tokens"
    remedy = f"more text,{fraction} or a smaller activations.context_length, is needed"
    return bad_value("corpus", origin.corpus, f"{reason}; {remedy}")


def _say_if_short(origin: Origin, split: SplitName, written: int) -> None:
    if written < (wanted := origin.wanted(split)):
        print_line(
            f"corpus={origin.corpus} ended after {written:,} of the {wanted:,} {split} tokens asked for; the cache is "
            "finished with these"
        )


def human(size: float) -> str:
    """Bytes in the unit that reads best: 1.2 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
