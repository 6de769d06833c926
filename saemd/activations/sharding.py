"""From contexts to shards: the language model is run, outliers are dropped, and each group of contexts is permuted.

A shard holds the activations of one group of consecutive contexts, permuted. Groups and their batches are fixed by
position, and sums are kept in float64, so the shards are the same bytes on the disk and in memory, interrupted or not,
with one worker or several.
This file knows neither a language model nor a corpus: `saemd.activations.harvest` passes them in.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice

import numpy as np
import torch
from torch import Tensor

from saemd.activations.config import HarvestConfig
from saemd.activations.manifest import SPLITS, Manifest, Origin, Outliers, Progress, Shard, Split, SplitName
from saemd.activations.prefetch import prefetched
from saemd.activations.shards import count_non_finite, to_bits
from saemd.activations.statistics import Sums, norms
from saemd.errors import UserError, bad_value
from saemd.progress import Bar

Context = tuple[Tensor, Tensor]  # input_ids [T] int64, keep [T] bool: False where a token's activation is not wanted
Forward = Callable[[Tensor], Tensor]  # input_ids [B, T] → activations [B, T, D]
Keep = Callable[[SplitName, str, np.ndarray], str]  # split, file name and bfloat16 bits [N, D] of a shard → its sha256
_AHEAD = 2  # batches for each worker: one that it runs, and one that waits while another worker's takes longer


@dataclass(frozen=True)
class _Batch:
    """The kept activations of some contexts."""

    bits: np.ndarray  # [N, D]
    norms: np.ndarray  # [N]
    contexts: int
    special: int  # tokens that are not kept


@dataclass
class _Group:
    """The activations collected so far for one shard."""

    bits: list[np.ndarray] = field(default_factory=list)  # each [n, D]
    norms: list[np.ndarray] = field(default_factory=list)  # each [n]
    contexts: int = 0
    special: int = 0

    def add(self, batch: _Batch) -> None:
        self.bits.append(batch.bits)
        self.norms.append(batch.norms)
        self.contexts += batch.contexts
        self.special += batch.special


class Sharder:
    """Makes the shards of both splits. `keep` gets each one; `progress` says which exist, and `save` stores that.

    With more than one worker, as many threads call `forward` at the same time, on batches ahead of the shard in work.
    """

    def __init__(
        self,
        origin: Origin,
        config: HarvestConfig,
        progress: Progress,
        forward: Forward,
        bar: Bar,
        keep: Keep,
        save: Callable[[], None] = lambda: None,
        workers: int = 1,
    ) -> None:
        self.origin, self.progress, self.forward, self.bar = origin, progress, forward, bar
        self.keep, self.save, self.workers = keep, save, workers
        self.sums = Sums.from_json(progress.sums)
        self.shard_contexts = config.shard_tokens // config.context_length
        self.batch_contexts = max(1, config.lm_batch_tokens // config.context_length)
        self.new_tokens, self.started = 0, time.perf_counter()

    def add_split(self, name: SplitName, contexts: Callable[[], Iterator[Context]]) -> None:
        """Make the shards of a split that do not exist yet. Raises `UserError`; see `saemd.activations.write`."""
        split, wanted = self.progress.splits[name], self.origin.wanted(name)
        if split.tokens >= wanted or self.progress.ended[name]:
            return
        stream = contexts()
        if split.contexts:
            self.bar.note("skipping the contexts that are done")
            next(islice(stream, split.contexts, split.contexts), None)
        with closing(self._harvested(name, stream, wanted - split.tokens)) as batches:
            while split.tokens < wanted and not self.progress.ended[name]:
                group = self._collect(name, batches, wanted - split.tokens)
                if group.contexts:
                    self._finish(name, split, group, wanted - split.tokens)
                if not split.tokens and self.progress.ended[name]:
                    raise without_context(self.origin, name, split.contexts)
                self.progress.sums = self.sums.to_json()
                self.save()

    def manifest(self) -> Manifest:
        """What is recorded of the shards when both splits are complete."""
        assert self.progress.outliers is not None
        return Manifest(
            fingerprint=self.origin.fingerprint,
            origin=self.origin,
            lm_dtype=self.progress.lm_dtype,
            outliers=self.progress.outliers,
            splits=self.progress.splits,
            statistics=self.sums.statistics(),
            versions={name: importlib.metadata.version(name) for name in ("torch", "transformers", "numpy")},
        )

    def _harvested(self, name: SplitName, stream: Iterator[Context], missing: int) -> Generator[_Batch]:
        """The batches in order. The last ones, which the missing tokens may not need, run one at a time when asked for.

        Run ahead, they would be thrown away at the end of a split: two batches a worker.
        """
        makers = self._batches(name, stream)
        certain = -(-missing // (self.batch_contexts * self.origin.context_length))
        ahead = 0 if self.workers == 1 else _AHEAD * self.workers
        yield from prefetched(islice(makers, certain), ahead, self.workers, "language model")
        for make in makers:
            yield make()

    def _batches(self, name: SplitName, stream: Iterator[Context]) -> Iterator[Callable[[], _Batch]]:
        """A function for each batch of contexts that runs the language model on it. No batch is of two shards."""
        for shard in count(len(self.progress.splits[name].shards)):
            missing = self.shard_contexts
            while missing:
                batch = list(islice(stream, min(self.batch_contexts, missing)))
                if not batch:
                    return
                missing -= len(batch)
                yield partial(self._run, batch, f"{name}-{shard:05d}.bin")

    def _run(self, contexts: list[Context], file: str) -> _Batch:
        ids_BT = torch.stack([context[0] for context in contexts])
        keep_BT = torch.stack([context[1] for context in contexts])
        bits_ND = kept_bits(self.forward, ids_BT, keep_BT, self.origin, self.progress.lm_dtype, file)
        return _Batch(bits_ND, norms(bits_ND), len(contexts), keep_BT.numel() - len(bits_ND))

    def _collect(self, name: SplitName, batches: Iterator[_Batch], missing: int) -> _Group:
        """The activations of up to a shard's contexts; fewer contexts where they hold all the missing tokens."""
        group = _Group()
        while group.contexts < self.shard_contexts:
            batch = next(batches, None)
            if batch is None:
                self.progress.ended[name] = True
                break
            group.add(batch)
            self._advance(len(batch.bits))
            kept = np.concatenate(group.norms)
            if (kept <= self._outliers(kept).limit_or_inf).sum() >= missing:
                break
        return group

    def _finish(self, name: SplitName, split: Split, group: _Group, missing: int) -> None:
        """Drop the outliers, keep at most `missing` tokens, permute them, keep the shard, and record it."""
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
            split.shards.append(Shard(file, len(kept), self.keep(name, file, bits_ND)))
            if name == "train":
                self.sums.add(bits_ND, norms_N[kept])
        split.tokens += len(kept)
        split.contexts += group.contexts
        split.dropped_special += group.special
        split.dropped_outliers += int((norms_N[: last + 1] > self.progress.outliers.limit_or_inf).sum())

    def _outliers(self, norms_N: np.ndarray) -> Outliers:
        """The rule. Before the first shard is complete, it follows from that shard's tokens so far."""
        if self.progress.outliers is not None:
            return self.progress.outliers
        median = float(np.median(norms_N)) if len(norms_N) else 0.0
        factor = self.origin.outlier_factor
        return Outliers(factor, median, None if factor is None else factor * median)

    def _advance(self, tokens: int) -> None:
        self.new_tokens += tokens
        self.bar.advance(tokens)
        self.bar.note(f"{self.new_tokens / (time.perf_counter() - self.started):,.0f} tokens/s")


def kept_bits(
    forward: Forward, ids_BT: Tensor, keep_BT: Tensor, origin: Origin, lm_dtype: str, purpose: str
) -> np.ndarray:
    """The activations of the kept tokens of a batch of contexts, in their order, as bfloat16 bits [N, D].

    Raises `UserError`, with what they are for (`purpose`), if they are NaN, infinite or of another width than `origin`
    says.
    """
    with torch.inference_mode():
        acts_BTD = forward(ids_BT)
        if acts_BTD.shape != (*ids_BT.shape, origin.d_in):
            raise bad_value("lm", origin.lm, f"activations {[*acts_BTD.shape]}, not of width {origin.d_in}")
        bits_ND = to_bits(acts_BTD[keep_BT.to(acts_BTD.device)])
    if bad := count_non_finite(bits_ND):
        remedy = f"{bad:,} of {bits_ND.size:,} values for {purpose} are NaN or infinite; use float32, or another layer"
        raise bad_value("activations.lm_dtype", lm_dtype, remedy)
    return bits_ND


def without_context(origin: Origin, split: SplitName, contexts: int = 0) -> UserError:
    """The error for a split without a token: it fills no context, or all tokens of its `contexts` were dropped."""
    if contexts:
        reason = f"all tokens of its {contexts:,} {split} contexts are special tokens or outliers"
        return bad_value("corpus", origin.corpus, f"{reason}; use text that the tokenizer of {origin.lm} knows")
    fraction = " a larger corpus.heldout_fraction," if split == "heldout" else ""
    reason = f"its {split} documents fill no context of {origin.context_length} tokens"
    remedy = f"more text,{fraction} or a smaller activations.context_length, is needed"
    return bad_value("corpus", origin.corpus, f"{reason}; {remedy}")
