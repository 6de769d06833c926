"""The activation cache of a language model's layer on a corpus: opened, or written first where it is missing."""

from __future__ import annotations

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
from saemd.corpus import contexts, fingerprint, some_documents
from saemd.corpus.config import CorpusConfig
from saemd.errors import UserError, bad_value
from saemd.files import check_writable
from saemd.lm.config import LMConfig
from saemd.lm.files import label
from saemd.lm.load import LM, fastest_dtype, lm_info, load_lm, residual_stream
from saemd.progress import print_line


def ensure_cache(
    lm_config: LMConfig,
    layer: int,
    corpus_config: CorpusConfig,
    config: ActivationsConfig,
    cache_root: Path,
    *,
    accelerator: str = "auto",
) -> ActivationCache:
    """The finished cache of layer `layer`'s output; written first where it is missing.

    The language model runs on the GPU if there is one, unless `accelerator` is cpu. A finished cache is identified by
    its fingerprint, without loading model or corpus. A process verifies a shard's checksum before it first reads it.
    Raises `UserError` (see `write_cache` and `ActivationCache.open`).
    """
    check_activations(config)
    origin = describe(lm_config, layer, corpus_config, config, cache_root)
    folder = cache_folder(origin, cache_root)
    if not (folder / MANIFEST).is_file():
        check_writable(folder.parent)
        with lock(folder):
            take_over(folder, origin, lm_config)
            if not (folder / MANIFEST).is_file():
                device = "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"
                _write(folder, origin, lm_config, corpus_config, config, cache_root, device)
    reading = {"window_tokens": config.window_tokens, "prefetch_batches": config.prefetch_batches}
    opened = ActivationCache.open(folder, verify=True, **reading)
    if opened.fingerprint != origin.fingerprint:
        other = opened.origin
        raise UserError(
            f"{folder}: the cache of {other.lm}, layer {other.layer}, width {other.d_in}, is in the place of "
            f"{origin.lm}, layer {layer}, width {origin.d_in}; delete or move it"
        )
    return opened


def describe(
    lm_config: LMConfig, layer: int, corpus_config: CorpusConfig, config: ActivationsConfig, cache_root: Path
) -> Origin:
    """What decides the cache's content. Raises `UserError` for a layer the model lacks, or contexts too long for it."""
    info = lm_info(lm_config, cache_root)
    if not 0 <= layer < info.n_layers:
        raise bad_value("layer", layer, f"{info.name} has layers 0 to {info.n_layers - 1}")
    if info.max_context is not None and config.context_length > info.max_context:
        remedy = f"{info.name} has {info.max_context} learned positions; use at most {info.max_context}"
        raise bad_value("activations.context_length", config.context_length, remedy)
    return Origin(
        lm=info.name,
        lm_fingerprint=info.fingerprint,
        layer=layer,
        d_in=info.d_model,
        corpus=corpus_config.name,
        corpus_fingerprint=fingerprint(corpus_config, cache_root),
        context_length=config.context_length,
        tokens=config.tokens,
        heldout_tokens=config.heldout_tokens,
        shard_tokens=config.shard_tokens,
        outlier_factor=config.outlier_factor,
        lm_dtype=config.lm_dtype,
    )


def cache_folder(origin: Origin, cache_root: Path) -> Path:
    """`cache_root/activations/<lm>-layer<k>-<fingerprint>`, or an existing cache of this model under another name."""
    root, suffix = cache_root / "activations", f"layer{origin.layer}-{origin.fingerprint[:12]}"
    named = root / f"{label(origin.lm)}-{suffix}"
    if not named.exists():
        return next((path.parent for path in sorted(root.glob(f"*-{suffix}/{MANIFEST}"))), named)
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
    trained = lm_info(lm_config, cache_root).trained_context
    if trained is not None and config.context_length > trained:
        length = f"activations.context_length={config.context_length:,}"
        print_line(f"{length} is more than the {trained:,} positions that {origin.lm} was trained on")
    progress = read_progress(folder)
    lm_dtype = progress.lm_dtype if progress else config.lm_dtype  # a resumed cache keeps its dtype
    if lm_dtype == "auto":
        lm_dtype = str(fastest_dtype(device)).removeprefix("torch.")

    @cache  # loaded after the check for enough disk
    def lm() -> LM:
        return load_lm(lm_config, cache_root, n_layers=origin.layer + 1, dtype=getattr(torch, lm_dtype), device=device)

    def forward(ids_BT: Tensor) -> Tensor:
        return residual_stream(lm().model, origin.layer, ids_BT)

    def split_contexts(split: SplitName) -> Iterator[Context]:
        yield from contexts(some_documents(corpus_config, cache_root, split), lm().tokenizer, config.context_length)

    write_cache(folder, origin, config, {split: partial(split_contexts, split) for split in SPLITS}, forward, lm_dtype)
