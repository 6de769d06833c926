"""Activations in memory: read from a finished cache, or straight from the language model."""

from pathlib import Path
from weakref import WeakValueDictionary

import torch

from saemd.activations.config import MemoryConfig, check_activations
from saemd.activations.disk.cache import ActivationCache
from saemd.activations.disk.manifest import MANIFEST, Origin, Progress
from saemd.activations.disk.remote import RemoteCache, fetch_records, open_cache
from saemd.activations.disk.shards import disk_bytes
from saemd.activations.harvest.ledger import MemoryLedger
from saemd.activations.harvest.open import LMOnText, cache_folder, describe, lm_device
from saemd.activations.harvest.sharding import Sharder
from saemd.activations.harvest.write import refuse_empty, say_if_short
from saemd.activations.memory.activations import MemoryActivations, Rows, RowsBuilder, read_cache
from saemd.activations.sizes import free_memory, human
from saemd.activations.source import Source
from saemd.corpus.config import CorpusConfig
from saemd.errors import bad_value
from saemd.lm.config import LMConfig
from saemd.progress import bar, print_line

_HEADROOM = 1.1  # of free memory over what the activations take: for the language model and the shard in work
RESIDENT_SHARE = 0.5  # of a GPU's free memory, which a cache on disk may take there
_held: WeakValueDictionary[tuple[str, torch.device], Rows] = WeakValueDictionary()  # by fingerprint; all in use
_last: list[Rows] = []  # of the last job of this process, kept for the next one: at most one


def open_memory(
    lm_config: LMConfig,
    layer: int,
    corpus_config: CorpusConfig,
    config: MemoryConfig,
    cache_root: Path,
    *,
    accelerator: str = "auto",
) -> MemoryActivations:
    """The activations of layer `layer`'s output, in memory. The last job's are used again if they are the same.

    Raises `UserError` where they do not fit, and as `saemd.activations.harvest.write` does.
    """
    check_activations(config)
    origin = describe(lm_config, layer, corpus_config, config, cache_root)
    device = rows_device(config.device)
    if not _is_held(origin, device):
        check_memory(origin, config)
        _last.clear()  # before the new ones are allocated
        folder = cache_folder(origin, cache_root)
        fetch_records(folder)
        if (folder / MANIFEST).is_file():
            print_line(f"activations are read into memory from {folder}")
            _hold(read_cache(open_cache(folder, config), device), device)
        else:
            lm = LMOnText(lm_config, layer, corpus_config, config, cache_root, lm_device(accelerator), config.lm_dtype)
            _hold(_harvest(origin, config, lm, device), device)
    return MemoryActivations(_held[origin.fingerprint, device], config.window_tokens, config.prefetch_batches)


def resident(source: Source, device: torch.device) -> Source:
    """A cache on disk, moved to the GPU's memory if it takes less than `RESIDENT_SHARE` of what is free there.

    The batches stay the same. Any other source, and any on a CPU, is returned as it is. So is a cache in a store: its
    runs do not wait until all of it is here.
    """
    if device.type != "cuda" or not isinstance(source, ActivationCache) or isinstance(source, RemoteCache):
        return source
    if not _is_held(source.origin, device):
        needed = disk_bytes(source.n_train + source.n_heldout, source.d_in)
        if needed > RESIDENT_SHARE * free_memory(device):
            return source
        print_line(f"activations: {human(needed)}, kept in the GPU's memory")
        _last.clear()
        _hold(read_cache(source, device), device)
    return MemoryActivations(_held[source.fingerprint, device], source.window_tokens, source.prefetch_batches)


def check_memory(origin: Origin, config: MemoryConfig) -> None:
    """Raise `UserError` where the activations do not fit into the memory that is free."""
    device = rows_device(config.device)
    if _is_held(origin, device):
        return
    held = sum(rows.bytes for rows in _last if rows.device == device)  # freed before others are allocated
    needed, free = int(_HEADROOM * disk_bytes(origin.tokens + origin.heldout_tokens, origin.d_in)), free_memory(device)
    if needed > free + held:
        where = "the GPU" if device.type == "cuda" else "this machine"
        remedy = "use fewer tokens, or activations=cache (on disk), or activations=online (a buffer)"
        sizes = f"they take {human(needed)} of memory and {where} has {human(free + held)} free"
        raise bad_value("activations.tokens", origin.tokens, f"{sizes}; {remedy}")


def rows_device(name: str) -> torch.device:
    """The device that holds the activations, as `Tensor.device` names it. Raises `UserError` where there is no GPU."""
    if name != "gpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise bad_value("activations.device", name, "this machine has no GPU that torch can use; use cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _is_held(origin: Origin, device: torch.device) -> bool:
    return (origin.fingerprint, device) in _held


def _hold(rows: Rows, device: torch.device) -> None:
    _held[rows.manifest.fingerprint, device] = rows
    _last[:] = [rows]


def _harvest(origin: Origin, config: MemoryConfig, lm: LMOnText, device: torch.device) -> Rows:
    size = human(disk_bytes(origin.tokens + origin.heldout_tokens, origin.d_in))
    print_line(
        f"activations of {origin.lm}, layer {origin.layer}, on {origin.corpus}: {origin.tokens:,} + "
        f"{origin.heldout_tokens:,} held-out tokens of width {origin.d_in}, {size} of memory"
    )
    refuse_empty(origin, lm.contexts)
    builder = RowsBuilder(origin, device)
    ledger = MemoryLedger(Progress.new(origin, lm.dtype), builder.keep)
    with (
        bar("activations", origin.tokens + origin.heldout_tokens, 0, "tokens") as progress_bar,
        lm.workers() as workers,
    ):
        progress = Sharder(origin, config, ledger, lm.contexts, lm.forward, progress_bar, workers).run()
    say_if_short(origin, progress, "training goes on with these")
    return builder.rows(progress.manifest(origin))
