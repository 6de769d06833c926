"""Seconds of small samples of the work on this machine: passes of the language model, training steps, a matching."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from saemd.activations.config import OnlineConfig
from saemd.activations.disk.cache import ActivationCache
from saemd.activations.disk.manifest import MANIFEST
from saemd.activations.disk.remote import is_remote
from saemd.activations.disk.shards import count_non_finite, to_bits
from saemd.activations.disk.statistics import Sums, norms
from saemd.config import Config
from saemd.corpus import contexts, some_documents
from saemd.lm.load import fastest_dtype, load_lm, residual_stream
from saemd.lm.workers import divided_threads, sharing_weights
from saemd.planning.model import LanguageModel, build
from saemd.planning.work import Harvest
from saemd.stability import match

_LOADED_BYTES = 1_000_000_000  # in place of a larger model, a random layer of its shape is timed
_RANDOM_LAYERS = 1
_RANDOM_VOCABULARY = 1000
_LARGEST_MATCHING = 3072  # latents; the time of larger dictionaries follows from its growth
_SMALL_TEXT_BYTES = 20_000_000  # of archives that are read to measure it
_OPENED = 4  # times that the cache's writer opens the text: each split is looked into first
_OUTLIERS = 10.0  # median norms, as `activations.outlier_factor`


def device_of(config: Config) -> str:
    """Where the command would compute: for accelerator=gpu a GPU, also where this machine has none."""
    is_asked = config.accelerator in ("gpu", "cuda")
    return "cuda" if is_asked or (config.accelerator == "auto" and torch.cuda.is_available()) else "cpu"


def dtype_of(config: Config) -> torch.dtype:
    """In which the language model would run."""
    wanted = config.activations.lm_dtype
    return fastest_dtype(device_of(config)) if wanted == "auto" else getattr(torch, wanted)


@dataclass(frozen=True)
class HarvestSeconds:
    """`once` for model and text, `per_context` for each context; `made`: the real model's activations, raw [N, D]."""

    once: float
    per_context: float
    made: Tensor


def harvest_seconds(harvest: Harvest, seconds: float) -> HarvestSeconds:
    """Timed passes of the real model where it is here and not large, else of a random layer of its shape."""
    config, model, device = harvest.config, harvest.model, device_of(harvest.config)
    length, layers = config.activations.context_length, config.layer + 1
    is_real = model.has_weights and model.stored_bytes <= _LOADED_BYTES
    built = layers if is_real else min(layers, _RANDOM_LAYERS)
    began = time.perf_counter()
    if is_real:
        loaded = load_lm(model.local, Path(config.cache_root), n_layers=layers, dtype=dtype_of(config), device=device)
        lm, text = loaded.model, _text_seconds(config, loaded.tokenizer)
    else:
        lm = _few_layers(model, built, dtype_of(config), device)
        text = 0.0
    once = time.perf_counter() - began + (_OPENED - 1) * text if is_real else 0.0
    table: Any = lm.get_input_embeddings()  # type: ignore[operator]
    generator = torch.Generator().manual_seed(0)
    in_a_pass = max(1, config.activations.lm_batch_tokens // length)
    x_ND: list[Tensor] = []

    def one_pass(worker: nn.Module, ids_BT: Tensor) -> Tensor:
        return residual_stream(worker, built - 1, ids_BT)[:, 1:].flatten(0, 1).cpu()

    def forward() -> None:
        batches = [torch.randint(0, len(table.weight), (in_a_pass, length), generator=generator) for _ in copies]
        x_ND.extend(threads.map(one_pass, copies, batches))

    def keep() -> None:
        """What is done with activations behind the model, but for the writing itself."""
        bits_ND = to_bits(x_ND[-1])
        count_non_finite(bits_ND)
        Sums.zero(bits_ND.shape[1]).add(bits_ND, norms(bits_ND))
        hashlib.sha256(bits_ND[torch.randperm(len(bits_ND), generator=generator).numpy()].data.cast("B")).hexdigest()

    is_online = isinstance(config.activations, OnlineConfig)  # its blocks are harvested by one thread
    with nullcontext(1) if is_online else divided_threads(device) as workers, ThreadPoolExecutor(workers) as threads:
        copies = [sharing_weights(lm) for _ in range(workers)]
        first = _mean_seconds(forward, 0.0, device)  # a pass of each worker, slower than the others
        passes = _mean_seconds(forward, 0.8 * seconds - first, device) / workers
    kept = _mean_seconds(keep, 0.1 * seconds, device)
    made = _without_outliers(torch.cat(x_ND)) if is_real else x_ND[0][:0].float()
    return HarvestSeconds(once, (passes * layers / built + kept) / in_a_pass, made)


def activations(harvest: Harvest, tokens: int) -> Tensor:
    """Raw activations [tokens, D] to train on for a moment: of the finished cache on disk, else random ones.

    The random ones have a mean, and axes of falling strength, as activations have.
    """
    folder = harvest.folder
    if folder is not None and (folder / MANIFEST).is_file() and not is_remote(folder):
        return ActivationCache.open(folder).sample(tokens)
    generator, D = torch.Generator().manual_seed(0), harvest.d_in
    axes_D = torch.arange(1, D + 1).float().pow(-0.25)
    mean_D = torch.randn(D, generator=generator)
    x_ND = torch.randn(tokens, D, generator=generator) * axes_D
    return x_ND + mean_D * (x_ND.pow(2).sum(1).mean() / mean_D.pow(2).sum()).sqrt()


def matching_seconds(d_in: int, d_sae: int) -> float:
    """One matching of two dictionaries. Larger ones are foretold from one of `_LARGEST_MATCHING` latents."""
    rows = min(d_sae, _LARGEST_MATCHING)
    generator = torch.Generator().manual_seed(0)
    axes_D = torch.arange(1, d_in + 1).float().pow(-0.25)  # as strong as those of activations
    a_FD, b_FD = (torch.randn(rows, d_in, generator=generator) * axes_D for _ in range(2))
    match(a_FD[:64], b_FD[:64])  # loads the compiled loops
    began = time.perf_counter()
    match(a_FD, b_FD)
    return (time.perf_counter() - began) * (d_sae / rows) ** GROWTH


GROWTH = 1.8  # of the time with the number of latents: 1.55 at d_in 576, 1.87 at 2,304, from 3,072 to 18,432 latents


def _text_seconds(config: Config, tokenizer: Any) -> float:
    """Until the text's first context is there; 0 for a text that is not here, or so large that this takes long."""
    corpus, root = config.corpus, Path(config.cache_root)
    archives = [root / "packages" / f"{source.package}-{source.version}" for source in corpus.sources.values()]
    size = sum(file.stat().st_size for folder in archives if folder.is_dir() for file in folder.iterdir())
    if corpus.dataset or size > _SMALL_TEXT_BYTES or not all(folder.is_dir() for folder in archives):
        return 0.0
    began = time.perf_counter()
    next(contexts(some_documents(corpus, root, "train"), tokenizer, config.activations.context_length), None)
    return time.perf_counter() - began


def _mean_seconds(act: Callable[[], Any], seconds: float, device: str, most: int = 20) -> float:
    """Mean of as many calls as fit, at least one."""
    taken: list[float] = []
    while not taken or (len(taken) < most and sum(taken) + fmean(taken) < seconds):
        began = time.perf_counter()
        act()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return fmean(taken)


def _without_outliers(x_ND: Tensor) -> Tensor:
    norm_N = x_ND.norm(dim=1)
    return x_ND[norm_N <= _OUTLIERS * norm_N.median()].float()


def _few_layers(model: LanguageModel, layers: int, dtype: torch.dtype, device: str) -> nn.Module:
    settings = copy.deepcopy(model.settings)
    text = settings.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    text.vocab_size = min(text.vocab_size, _RANDOM_VOCABULARY)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(text, name, 0)
    with torch.random.fork_rng():
        return build(settings, torch.device(device), dtype).requires_grad_(False)
