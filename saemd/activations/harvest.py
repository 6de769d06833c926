"""The activation cache of a language model's layer on a corpus: found again, resumed or written."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

from saemd.activations.cache import ActivationCache
from saemd.activations.config import ActivationsConfig, check_activations
from saemd.activations.manifest import MANIFEST, SPLITS, Origin, SplitName, read_progress
from saemd.activations.takeover import take_over
from saemd.activations.write import Context, lock, write_cache
from saemd.corpus.config import CorpusConfig
from saemd.errors import UserError, bad_value
from saemd.files import check_writable
from saemd.lm.config import LMConfig
from saemd.lm.files import label
from saemd.lm.load import LM, fastest_dtype, lm_info, load_lm, residual_stream


def ensure_cache(
    lm_config: LMConfig,
    layer: int,
    corpus_config: CorpusConfig,
    activations_config: ActivationsConfig,
    cache_root: Path,
    *,
    accelerator: str = "auto",
) -> ActivationCache:
    """The finished cache of layer `layer`'s output; written first where it is missing.

    `accelerator` is where the language model runs: on a GPU where there is one, unless it says cpu.
    A finished cache is found by its fingerprint, without loading model or corpus. Shards are verified by checksum
    when a process first reads them. Raises `UserError` (see `write_cache` and `ActivationCache.open`).
    """
    check_activations(activations_config)
    origin = describe(lm_config, layer, corpus_config, activations_config, cache_root)
    folder = cache_folder(origin, cache_root)
    if not (folder / MANIFEST).is_file():
        check_writable(folder.parent)
        with lock(folder):
            take_over(folder, origin, lm_config)
            if not (folder / MANIFEST).is_file():
                device = "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"
                _write(folder, origin, lm_config, corpus_config, activations_config, cache_root, device)
    found = ActivationCache.open(folder, verify=True)
    if found.fingerprint != origin.fingerprint:
        there = found.manifest.origin
        raise UserError(
            f"{folder}: the cache of {there.lm}, layer {there.layer}, width {there.d_in}, is in the place of "
            f"{origin.lm}, layer {layer}, width {origin.d_in}; delete or move it"
        )
    return found


def describe(
    lm_config: LMConfig,
    layer: int,
    corpus_config: CorpusConfig,
    activations_config: ActivationsConfig,
    cache_root: Path,
) -> Origin:
    """What the cache is a cache of. Raises `UserError` for a layer outside the model, or contexts too long for it."""
    from saemd.corpus import fingerprint

    info = lm_info(lm_config, cache_root)
    if not 0 <= layer < info.n_layers:
        raise bad_value("layer", layer, f"{info.name} has layers 0 to {info.n_layers - 1}")
    if info.max_context is not None and activations_config.context_length > info.max_context:
        remedy = f"{info.name} has {info.max_context} learned positions; use at most {info.max_context}"
        raise bad_value("activations.context_length", activations_config.context_length, remedy)
    return Origin(
        lm=info.name,
        lm_fingerprint=info.fingerprint,
        layer=layer,
        d_in=info.d_model,
        corpus=corpus_config.name,
        corpus_fingerprint=fingerprint(corpus_config, cache_root),
        context_length=activations_config.context_length,
        tokens=activations_config.tokens,
        heldout_tokens=activations_config.heldout_tokens,
        shard_tokens=activations_config.shard_tokens,
        outlier_factor=activations_config.outlier_factor,
        lm_dtype=activations_config.lm_dtype,
    )


def cache_folder(origin: Origin, cache_root: Path) -> Path:
    """`cache_root/activations/<lm>-layer<k>-<fingerprint>`, or what is there of this model under another name."""
    root, known = cache_root / "activations", f"layer{origin.layer}-{origin.fingerprint[:12]}"
    named = root / f"{label(origin.lm)}-{known}"
    if not named.exists():
        return next((path.parent for path in sorted(root.glob(f"*-{known}/{MANIFEST}"))), named)
    return named


def _write(
    folder: Path,
    origin: Origin,
    lm_config: LMConfig,
    corpus_config: CorpusConfig,
    config: ActivationsConfig,
    cache_root: Path,
    device: str,
) -> None:
    from saemd.corpus import contexts, some_documents

    trained = lm_info(lm_config, cache_root).trained_context
    if trained is not None and config.context_length > trained:
        asked = f"activations.context_length={config.context_length:,}"
        print(f"{asked} is more than the {trained:,} positions that {origin.lm} was trained on", file=sys.stderr)
    begun = read_progress(folder)  # a resumed cache keeps its dtype, whatever is faster here
    lm_dtype = begun.lm_dtype if begun else config.lm_dtype
    if lm_dtype == "auto":
        lm_dtype = str(fastest_dtype(device)).removeprefix("torch.")

    @cache  # not before the disk was found large enough
    def lm() -> LM:
        return load_lm(lm_config, cache_root, n_layers=origin.layer + 1, dtype=getattr(torch, lm_dtype), device=device)

    def forward(ids_BT: Tensor) -> Tensor:
        return residual_stream(lm().model, origin.layer, ids_BT)

    def texts(split: SplitName) -> Iterator[Context]:
        for packed in contexts(some_documents(corpus_config, cache_root, split), lm().tokenizer, config.context_length):
            yield packed.input_ids, packed.keep

    write_cache(folder, origin, config, {split: partial(texts, split) for split in SPLITS}, forward, lm_dtype)
