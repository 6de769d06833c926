"""The language model and the text behind activations, and the cache on disk: opened, or written where it is missing."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property, partial
from pathlib import Path
from threading import Lock, local

import torch
from torch import Tensor, nn

from saemd.activations.config import MLP_OUT, RESIDUAL, ActivationsConfig, HarvestConfig, check_activations
from saemd.activations.disk.cache import ActivationCache
from saemd.activations.disk.manifest import MANIFEST, SPLITS, Origin, SplitName
from saemd.activations.disk.remote import fetch_records, is_remote, open_cache
from saemd.activations.harvest.groups import Context
from saemd.activations.harvest.takeover import take_over
from saemd.activations.harvest.write import begin, joined, ledger_of, lock, remove_remains, write_shards
from saemd.corpus import contexts, fingerprint, some_documents
from saemd.corpus.config import CorpusConfig
from saemd.errors import UserError, bad_value
from saemd.files import check_writable
from saemd.lm.config import LMConfig
from saemd.lm.files import label, resolve
from saemd.lm.load import LM, fastest_dtype, lm_info, load_lm, mlp_output, residual_stream
from saemd.lm.pretrained import read_tokenizer
from saemd.lm.workers import divided_threads, sharing_weights
from saemd.progress import print_line
from saemd.remote.store import check_store
from saemd.remote.urls import upload_url

READERS: Mapping[str, Callable[[nn.Module, int, Tensor], Tensor]] = {RESIDUAL: residual_stream, MLP_OUT: mlp_output}


def ensure_cache(
    lm_config: LMConfig,
    layer: int,
    corpus_config: CorpusConfig,
    config: ActivationsConfig,
    cache_root: Path,
    *,
    accelerator: str = "auto",
    together: bool = False,
) -> ActivationCache:
    """The finished cache of layer `layer`'s output; written first where it is missing.

    With `together`, processes that call this at the same time share the work; without, one writes and the others wait.
    The language model runs on the GPU if there is one, unless `accelerator` is cpu. A finished cache is identified by
    its fingerprint, without loading model or corpus. A process verifies a shard's checksum before it first reads it.
    Raises `UserError` (see `saemd.activations.harvest.write` and `ActivationCache.open`).
    """
    check_activations(config)
    origin = describe(lm_config, layer, corpus_config, config, cache_root)
    folder = cache_folder(origin, cache_root)
    fetch_records(folder)
    if not (folder / MANIFEST).is_file():
        check_writable(folder.parent)
        if url := upload_url(folder.parent):
            check_store("cache_root", url, writes=True)
        with ExitStack() as writing:
            if together and not is_remote(folder):  # in a store one machine writes, and there one process
                writing.enter_context(joined(folder, partial(_prepare, folder, origin, lm_config)))
            else:
                writing.enter_context(lock(folder))
                fetch_records(folder)  # of another machine, which may have gone on
                _prepare(folder, origin, lm_config)
            if not (folder / MANIFEST).is_file():
                progress = ledger_of(folder, origin, config).read()
                lm_dtype = progress.lm_dtype if progress else config.lm_dtype  # a resumed cache keeps its dtype
                lm = LMOnText(lm_config, layer, corpus_config, config, cache_root, lm_device(accelerator), lm_dtype)
                ledger = begin(folder, origin, config, lm.contexts, lm.dtype)
                lm.use_dtype(ledger.progress().lm_dtype)  # of the process that was the first to begin
                workers = writing.enter_context(lm.workers())
                write_shards(ledger, config, lm.contexts, lm.forward, workers)
    opened = open_cache(folder, config)
    if opened.fingerprint != origin.fingerprint:
        other = opened.origin
        raise UserError(
            f"{folder}: the cache of {other.lm}, layer {other.layer}, width {other.d_in}, is in the place of "
            f"{origin.lm}, layer {layer}, width {origin.d_in}; delete or move it"
        )
    return opened


def _prepare(folder: Path, origin: Origin, lm_config: LMConfig) -> None:
    """What is done before a cache is written, while no other process writes it."""
    take_over(folder, origin, lm_config)
    if not (folder / MANIFEST).is_file():
        remove_remains(folder)


def describe(
    lm_config: LMConfig, layer: int, corpus_config: CorpusConfig, config: HarvestConfig, cache_root: Path
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
        corpus=corpus_config.name + (f" part {corpus_config.part}" if corpus_config.part else ""),
        corpus_fingerprint=fingerprint(corpus_config, cache_root),
        context_length=config.context_length,
        tokens=config.tokens,
        heldout_tokens=config.heldout_tokens,
        shard_tokens=config.shard_tokens,
        outlier_factor=config.outlier_factor,
        lm_dtype=config.lm_dtype,
        part=corpus_config.part,
        hook=config.hook,
    )


def cache_folder(origin: Origin, cache_root: Path) -> Path:
    """`cache_root/activations/<lm>-layer<k>-<fingerprint>`, or an existing cache of this model under another name."""
    root, suffix = cache_root / "activations", f"layer{origin.layer}-{origin.fingerprint[:12]}"
    named = root / f"{label(origin.lm)}-{suffix}"
    if not named.exists():
        return next((path.parent for path in sorted(root.glob(f"*-{suffix}/{MANIFEST}"))), named)
    return named


class LMOnText:
    """A language model up to a layer, and the contexts of a corpus. It is loaded when it is first needed.

    `lm_dtype` is a key of `LM_DTYPES`; `dtype` is the one that auto stands for on this machine.
    """

    def __init__(
        self,
        lm_config: LMConfig,
        layer: int,
        corpus_config: CorpusConfig,
        config: HarvestConfig,
        cache_root: Path,
        device: str,
        lm_dtype: str,
    ) -> None:
        self._lm_config, self._layer, self._cache_root, self._device = lm_config, layer, cache_root, device
        self._corpus, self._length, self._read = corpus_config, config.context_length, READERS[config.hook]
        self._loading, self._of_thread = Lock(), local()
        self.dtype = dtype_name(lm_dtype, device)
        self.contexts: dict[SplitName, Callable[[], Iterator[Context]]] = {
            split: partial(self._contexts, split) for split in SPLITS
        }
        info = lm_info(lm_config, cache_root)
        if info.trained_context is not None and self._length > info.trained_context:
            length = f"activations.context_length={self._length:,}"
            print_line(f"{length} is more than the {info.trained_context:,} positions that {info.name} was trained on")

    @cached_property
    def lm(self) -> LM:
        dtype = getattr(torch, self.dtype)
        return load_lm(self._lm_config, self._cache_root, n_layers=self._layer + 1, dtype=dtype, device=self._device)

    def use_dtype(self, dtype: str) -> None:
        """Run the language model in another dtype, before `forward` is called. It is loaded again if it was loaded."""
        if dtype != self.dtype:
            self.dtype = dtype
            self.__dict__.pop("lm", None)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """The activations [B, T, D]. Threads may call it at the same time: each has its own modules and hooks."""
        if not hasattr(self._of_thread, "model"):
            with self._loading:
                self._of_thread.model = sharing_weights(self.lm.model)
        return self._read(self._of_thread.model, self._layer, ids_BT)

    def workers(self) -> AbstractContextManager[int]:
        """In the block, as many threads as this gives can call `forward` at the same time at full speed."""
        return divided_threads(self._device)

    def training_contexts(self) -> Iterator[Context]:
        """As `contexts["train"]`, from the tokenizer alone: the language model is not loaded."""
        tokenizer = read_tokenizer(self._lm_config, resolve(self._lm_config, self._cache_root))
        return contexts(some_documents(self._corpus, self._cache_root, "train"), tokenizer, self._length)

    def _contexts(self, split: SplitName) -> Iterator[Context]:
        yield from contexts(some_documents(self._corpus, self._cache_root, split), self.lm.tokenizer, self._length)


def dtype_name(lm_dtype: str, device: str) -> str:
    """The dtype in which the language model runs, as `activations.lm_dtype` asks for."""
    return str(fastest_dtype(device)).removeprefix("torch.") if lm_dtype == "auto" else lm_dtype


def lm_device(accelerator: str) -> str:
    """Where the language model runs: on the GPU if there is one, unless `accelerator` is cpu."""
    return "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"
