"""How well the sources shuffle: tokens of one document or context in a batch, against a perfect shuffle.

    python experiments/throughput/shuffle.py [out=shuffle.json]

The real writer and the real stream, on the Wikipedia summaries packed as `saemd.cache` packs them; in the place of
activations stands the number of the token (its digits in base 128: exact in bfloat16), by which its document and
context are looked up. All batches of 2,048 of one epoch, at the default context length and the paper's: from the cache
at the default window and at an eighth of it, and online at the default buffer.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saemd.activations.config import ActivationsConfig, OnlineConfig
from saemd.activations.disk.cache import ActivationCache
from saemd.activations.disk.manifest import SPLITS, Origin, SplitName
from saemd.activations.harvest.groups import Context
from saemd.activations.harvest.kept import kept_bits
from saemd.activations.harvest.write import begin, write_shards
from saemd.activations.online.activations import OnlineActivations
from saemd.activations.online.contexts import open_contexts
from saemd.activations.source import Source
from saemd.composition import compose_all
from saemd.config import Config
from saemd.corpus import contexts, documents
from saemd.lm.load import load_lm

B, DIGITS, BASE = 2048, 4, 128
PLACES = BASE ** np.arange(DIGITS)


class Numbered:
    """Contexts whose ids are the tokens' numbers; `document` and `context` are those of token number i."""

    def __init__(self, config: Config, tokenizer: Any, length: int) -> None:
        self.config, self.tokenizer, self.length = config, tokenizer, length
        self.packed = {split: list(self._packed(split)) for split in ("train", "heldout")}
        ids_ST = np.stack([context.input_ids.numpy() for context in self.packed["train"]])
        ends = ids_ST == tokenizer.eos_token_id
        if tokenizer.bos_token_id is not None:
            ends[:, 0] = False
        self.document = (np.cumsum(ends.ravel()) - ends.ravel()).astype(np.int64)
        self.context = np.repeat(np.arange(len(ids_ST)), length)

    def _packed(self, split: SplitName) -> Iterator[Any]:
        texts = documents(self.config.corpus, Path(self.config.cache_root), split)
        return contexts(texts, self.tokenizer, self.length)

    def __call__(self, split: SplitName) -> Iterator[Context]:
        for i, context in enumerate(self.packed[split]):
            yield torch.arange(i * self.length, (i + 1) * self.length), context.keep


def forward(ids_BT: Tensor) -> Tensor:
    return torch.stack([ids_BT // BASE**k % BASE for k in range(DIGITS)], dim=-1).float()


def cached(folder: Path, numbered: Numbered) -> ActivationCache:
    """Every kept token; the sizes but for `tokens` are the defaults."""
    config = ActivationsConfig(tokens=10**9, heldout_tokens=B, context_length=numbered.length, outlier_factor=None)
    tokens = sum(int(context.keep.sum()) for context in numbered.packed["train"])
    origin = Origin(
        "numbers", "", 0, DIGITS, "wiki", "", numbered.length, tokens, B, config.shard_tokens, None, "float32"
    )
    sources = {split: lambda split=split: numbered(split) for split in SPLITS}
    ledger = begin(folder, origin, config, sources, "float32")  # type: ignore[arg-type]
    write_shards(ledger, config, sources, forward)  # type: ignore[arg-type]
    return ActivationCache.open(folder, verify=True)


def pairs(group_N: np.ndarray) -> float:
    """The share of pairs of two different tokens that are of one group."""
    sizes = np.unique(group_N, return_counts=True)[1].astype(float)
    return float((sizes * (sizes - 1)).sum() / (len(group_N) * (len(group_N) - 1)))


def online(folder: Path, numbered: Numbered, cache: ActivationCache) -> OnlineActivations:
    """The same tokens, harvested in the order of seed 0. The sizes are the defaults."""

    def harvest(ids_BT: Tensor, keep_BT: Tensor) -> Tensor:
        bits_ND = kept_bits(forward, ids_BT, keep_BT, cache.origin, "float32", "a batch")
        return torch.from_numpy(bits_ND).view(torch.bfloat16)

    store = open_contexts(cache.origin, folder, lambda: numbered("train"))
    config = OnlineConfig(tokens=cache.n_train, context_length=numbered.length)
    return OnlineActivations(cache, cache.origin, store, harvest, config, torch.device("cpu"))


def measured(source: Source, tokens: int, groups: dict[str, np.ndarray]) -> dict[str, Any]:
    """Shares over an epoch's batches, and how many of a batch's other tokens are of a token's own group."""
    stream = source.stream(B, tokens, seed=0)
    epoch = [(batch.double() * source.scale).round().long().numpy() @ PLACES for batch in stream]
    seen = np.concatenate(epoch)
    assert len(np.unique(seen)) == len(seen), "a token came twice"
    found: dict[str, Any] = {"batches": len(epoch)}
    for name, group in groups.items():
        any_two = float(np.mean([pairs(group[batch]) for batch in epoch]))
        perfect = pairs(group[seen])
        found[name] = {
            "neighbours": float(np.mean([np.mean(group[batch[1:]] == group[batch[:-1]]) for batch in epoch])),
            "any_two": any_two,
            "perfect": perfect,
            "over_perfect": any_two / perfect,
            "companions": any_two * (B - 1),
        }
    return found


def main(words: list[str]) -> None:
    given = dict(word.split("=", 1) for word in words)
    (config,) = compose_all([])
    tokenizer = load_lm(config.lm, Path(config.cache_root), n_layers=1, dtype=torch.float32, device="cpu").tokenizer
    default = ActivationsConfig()
    results = []
    for length in (default.context_length, 1024):
        numbered = Numbered(config, tokenizer, length)
        groups = {"document": numbered.document, "context": numbered.context}
        with tempfile.TemporaryDirectory() as folder:
            cache = cached(Path(folder) / "cache", numbered)
            sources: list[tuple[dict[str, Any], Source]] = [
                (
                    {"source": "cache", "window_tokens": window},
                    ActivationCache(cache.path, cache.manifest, True, window_tokens=window, prefetch_batches=0),
                )
                for window in (default.window_tokens, default.window_tokens // 8)
            ]
            opened = online(Path(folder), numbered, cache)
            sources.append(({"source": "online", "buffer_tokens": opened.config.buffer_tokens}, opened))
            for keys, source in sources:
                sizes = {"tokens": cache.n_train, "documents": int(numbered.document[-1]) + 1}
                results.append({"context_length": length, **keys, **sizes, **measured(source, cache.n_train, groups)})
                print(json.dumps(results[-1], indent=1), flush=True)
    result = {
        "date": date.today().isoformat(),
        "batch_size": B,
        "shard_tokens": default.shard_tokens,
        "epochs": results,
    }
    Path(given.get("out", Path(__file__).parent / "shuffle.json")).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
