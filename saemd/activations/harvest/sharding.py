"""From contexts to shards: the language model is run, outliers are dropped, and each group of contexts is permuted.

A shard holds the activations of one group of consecutive contexts, permuted. Groups and their batches are fixed by
position, and sums are kept in float64, so the shards are the same bytes on the disk and in memory, interrupted or not,
with one worker or several, made by one process or by several that take the groups in turn.
This file knows neither a language model nor a corpus: `saemd.activations.harvest.open` passes them in.
"""

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import numpy as np
import torch

from saemd.activations.config import HarvestConfig
from saemd.activations.disk.manifest import SPLITS, Origin, Outliers, Piece, Progress, SplitName
from saemd.activations.disk.statistics import norms, shard_sums
from saemd.activations.harvest.groups import Context, Groups
from saemd.activations.harvest.kept import Forward, kept_bits, without_context
from saemd.activations.harvest.ledger import Ledger
from saemd.activations.streams.prefetch import prefetched
from saemd.progress import Bar

Contexts = Mapping[SplitName, Callable[[], Iterator[Context]]]  # of each split, in a fixed order, from the first one
Make = Callable[[], "_Batch"]
_AHEAD = 2  # batches for each worker: one that it runs, and one that waits while another worker's takes longer
_POLL_SECONDS = 0.2  # between two looks at what other processes have made
_FIRST: tuple[SplitName, int] = (SPLITS[0], 0)  # the group whose tokens give the limit for outliers


@dataclass(frozen=True)
class _Claim:
    """A group of contexts that this process makes."""

    split: SplitName
    number: int
    index: int  # of its shard, if each earlier group has one that holds a wanted token
    contexts: list[Context]
    missing: int  # tokens that the split has room for, at least
    may_be_last: bool


@dataclass(frozen=True)
class _Batch:
    """The kept activations of some contexts of a group."""

    claim: _Claim
    bits: np.ndarray  # [N, D]
    norms: np.ndarray  # [N]
    contexts: int
    special: int  # tokens that are not kept
    ends_group: bool


@dataclass
class _Collected:
    """The activations collected so far for one shard."""

    bits: list[np.ndarray] = field(default_factory=list)  # each [n, D]
    norms: list[np.ndarray] = field(default_factory=list)  # each [n]
    contexts: int = 0
    special: int = 0
    tokens: int = 0

    def add(self, batch: _Batch) -> None:
        self.bits.append(batch.bits)
        self.norms.append(batch.norms)
        self.contexts += batch.contexts
        self.special += batch.special
        self.tokens += len(batch.bits)


class _FirstGroupLostError(Exception):
    """The process that made the first group has ended without it. Its limit is needed, so this one makes it first."""


class Sharder:
    """Makes the shards of both splits that `ledger` lacks, beside other processes if it is a `FileLedger`.

    With more than one worker, as many threads call `forward` at the same time, on batches ahead of the shard in work.
    """

    def __init__(
        self,
        origin: Origin,
        config: HarvestConfig,
        ledger: Ledger,
        contexts: Contexts,
        forward: Forward,
        bar: Bar,
        workers: int = 1,
    ) -> None:
        self.origin, self.ledger, self.forward, self.bar, self.workers = origin, ledger, forward, bar, workers
        self.contexts, self.groups = contexts, dict[SplitName, Groups]()
        self.group_contexts = group_contexts(config)
        self.batch_contexts = max(1, config.lm_batch_tokens // config.context_length)
        self.progress = ledger.progress()
        self._own: dict[tuple[SplitName, int], int] = {}  # group → tokens made here and not yet in the progress
        self._shown = self._first_shown = sum(split.tokens for split in self.progress.splits.values())
        self._started = time.perf_counter()

    def run(self) -> Progress:
        """Make shards until all are made, by whichever process. Raises `UserError`; see `write`."""
        self._update(self.ledger.commit())
        while not all(self.progress.is_complete(self.origin, split) for split in SPLITS):
            if not sum(self._make_all(split) for split in SPLITS):
                time.sleep(_POLL_SECONDS)
                self._update(self.ledger.commit())
        return self.progress

    def _make_all(self, split: SplitName) -> int:
        """Make the split's groups as long as there are some that no other process makes. Returns how many rounds."""
        rounds = 0
        while self._make(split):
            rounds += 1
        return rounds

    def _make(self, split: SplitName) -> bool:
        """Make the groups that are needed for certain, one behind the other. False where there is none."""
        group, has_group = _Collected(), False
        try:
            with closing(self._batches(split)) as batches:
                for batch in batches:
                    has_group = True
                    group.add(batch)
                    self._advance(batch)
                    if batch.ends_group or self._suffices(batch.claim, group):
                        self._finish(batch.claim, group)
                        group = _Collected()
                        if self.progress.is_complete(self.origin, split):
                            break
        except _FirstGroupLostError:
            self._own.clear()
        finally:
            self.ledger.release()
        return has_group

    def _batches(self, split: SplitName) -> Generator[_Batch]:
        """Claim groups and run their batches, in order. Those that the split may not need run when they are asked for.

        Run ahead, they would be thrown away at the end of a split: two batches a worker.
        """
        makers, uncertain = self._makers(split), list[Make]()

        def certain() -> Iterator[Make]:
            for make, is_certain in makers:
                if not is_certain:
                    uncertain.append(make)
                    return
                yield make

        ahead = 0 if self.workers == 1 else _AHEAD * self.workers
        yield from prefetched(certain(), ahead, self.workers, "language model")
        for make in chain(uncertain, (make for make, _ in makers)):
            yield make()

    def _makers(self, split: SplitName) -> Iterator[tuple[Make, bool]]:
        """Functions that run the language model on a batch each, and whether the split needs the batch for certain."""
        while claim := self._claim(split):
            before = 0  # tokens of the group's earlier batches, outliers included
            starts = range(0, max(1, len(claim.contexts)), self.batch_contexts)  # no context: an empty batch
            for start in starts:
                contexts = claim.contexts[start : start + self.batch_contexts]
                yield partial(self._run, claim, contexts, start == starts[-1]), before < claim.missing
                before += sum(int(keep_T.sum()) for _, keep_T in contexts)

    def _claim(self, split: SplitName) -> _Claim | None:
        """The first group that is needed for certain and that no process makes. None where others must finish first.

        A group that may be the last one ends where the split is full. So it waits until no other process is at work on
        an earlier one, whose outliers are not known before.
        """
        progress = self.ledger.progress()
        wanted, written = self.origin.wanted(split), progress.splits[split]
        number, index, before = progress.groups(split, self.group_contexts), len(written.shards), written.tokens
        is_known = True  # what the earlier groups hold, as soon as this process has finished its own
        while before < wanted and not progress.ended[split]:
            group = self._groups(split, number).group(number)
            may_be_last = before + group.kept >= wanted
            piece = self.ledger.made(split, number)
            if piece is None and (is_known or not may_be_last) and self.ledger.claim(split, number):
                return _Claim(split, number, index, group.contexts, wanted - before, may_be_last)
            if len(group.contexts) < self.group_contexts:
                break
            is_known = is_known and (piece is not None or self.ledger.holds(split, number))
            tokens = group.kept if piece is None else piece.tokens
            number, index, before = number + 1, index + (tokens > 0), before + tokens
        return None

    def _groups(self, split: SplitName, first: int) -> Groups:
        """The split's groups, of which those before `first` are not needed."""
        if split not in self.groups:
            if first:
                self.bar.note("skipping the contexts that are done")
            self.groups[split] = Groups(self.contexts[split], self.group_contexts, first)
        self.groups[split].forget(self.progress.groups(split, self.group_contexts))
        return self.groups[split]

    def _run(self, claim: _Claim, contexts: list[Context], ends_group: bool) -> _Batch:
        if not contexts:
            return _Batch(claim, np.empty((0, self.origin.d_in), np.uint16), np.empty(0), 0, 0, ends_group)
        ids_BT = torch.stack([context[0] for context in contexts])
        keep_BT = torch.stack([context[1] for context in contexts])
        file = f"{claim.split}-{claim.index:05d}.bin"
        bits_ND = kept_bits(self.forward, ids_BT, keep_BT, self.origin, self.progress.lm_dtype, file)
        return _Batch(claim, bits_ND, norms(bits_ND), len(contexts), keep_BT.numel() - len(bits_ND), ends_group)

    def _missing(self, claim: _Claim) -> int | None:
        """Tokens that the split has room for; None while other processes are at work on earlier groups."""
        split, size = claim.split, self.group_contexts
        if claim.may_be_last and self.progress.groups(split, size) < claim.number:
            self._update(self.ledger.commit())
        if self.progress.groups(split, size) < claim.number:
            return None
        return self.origin.wanted(split) - self.progress.splits[split].tokens

    def _suffices(self, claim: _Claim, group: _Collected) -> bool:
        """Whether the group so far holds all the missing tokens."""
        missing = self._missing(claim)
        if missing is None or group.tokens < missing:
            return False
        kept = np.concatenate(group.norms)
        return int((kept <= self._outliers(claim, kept).limit_or_inf).sum()) >= missing

    def _finish(self, claim: _Claim, group: _Collected) -> None:
        """Drop the outliers, keep at most the missing tokens, permute them, and add the shard."""
        norms_N, missing = np.concatenate(group.norms), self._missing(claim)
        outliers = self._outliers(claim, norms_N)
        inside = np.flatnonzero(norms_N <= outliers.limit_or_inf)
        kept = inside[:missing]
        last = kept[-1] if len(inside) > len(kept) else len(norms_N) - 1  # tokens after it are not counted
        generator = np.random.default_rng([SPLITS.index(claim.split), claim.index])
        order = generator.permutation(kept)
        bits_ND = np.concatenate(group.bits)[order]
        piece = Piece(
            index=claim.index,
            missing=missing,
            tokens=len(kept),
            sha256="",
            contexts=group.contexts,
            dropped_special=group.special,
            dropped_outliers=int((norms_N[: last + 1] > outliers.limit_or_inf).sum()),
            ended=group.contexts == len(claim.contexts) < self.group_contexts,
            outliers=outliers,
            sums=shard_sums(bits_ND, norms_N[order]) if claim.split == "train" and len(kept) else None,
        )
        self._update(self.ledger.add(claim.split, claim.number, piece, bits_ND))

    def _outliers(self, claim: _Claim, norms_N: np.ndarray) -> Outliers:
        """The rule. For the first group, it follows from that group's tokens so far; other groups wait for it."""
        if self.progress.outliers is None and (claim.split, claim.number) == _FIRST:
            median = float(np.median(norms_N)) if len(norms_N) else 0.0
            factor = self.origin.outlier_factor
            return Outliers(factor, median, None if factor is None else factor * median)
        while self.progress.outliers is None:
            self._update(self.ledger.commit())
            if self.progress.outliers is None and (self.ledger.holds(*_FIRST) or self.ledger.claim(*_FIRST)):
                raise _FirstGroupLostError
            time.sleep(_POLL_SECONDS)
        return self.progress.outliers

    def _update(self, progress: Progress) -> None:
        """Take over what all processes have made. Raises `UserError` for a split that ends without a token."""
        self.progress = progress
        for name, split in progress.splits.items():
            if progress.ended[name] and not split.tokens:
                raise without_context(self.origin, name, split.contexts)
        for name, number in list(self._own):
            if number < progress.groups(name, self.group_contexts) or progress.is_complete(self.origin, name):
                del self._own[name, number]
        self._show()

    def _advance(self, batch: _Batch) -> None:
        group = batch.claim.split, batch.claim.number
        self._own[group] = self._own.get(group, 0) + len(batch.bits)
        self._show()

    def _show(self) -> None:
        """Move the bar to the tokens of all processes' shards and of this one's in work."""
        made = sum(split.tokens for split in self.progress.splits.values()) + sum(self._own.values())
        self.bar.advance(max(0, made - self._shown))
        self._shown = max(made, self._shown)
        if (new := self._shown - self._first_shown) > 0:
            self.bar.note(f"{new / (time.perf_counter() - self._started):,.0f} tokens/s")


def group_contexts(config: HarvestConfig) -> int:
    """Contexts of a group: as many as fill a shard."""
    return config.shard_tokens // config.context_length
