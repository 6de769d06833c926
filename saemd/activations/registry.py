"""The sources of activations, by the class of their configuration."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from saemd.activations.config import ActivationsConfig, HarvestConfig, MemoryConfig, OnlineConfig
from saemd.activations.disk.manifest import Origin
from saemd.activations.harvest.open import describe, ensure_cache
from saemd.activations.memory.open import check_memory, open_memory
from saemd.activations.online.open import check_buffer, open_online
from saemd.activations.source import Source
from saemd.corpus.config import CorpusConfig
from saemd.lm.config import LMConfig


class Entry(NamedTuple):
    """How a source is opened, and what is checked before: whether its activations fit into the free memory."""

    open: Callable[..., Source]
    check_memory: Callable[..., None] = lambda origin, config: None


SOURCES: Mapping[type, Entry] = {
    ActivationsConfig: Entry(ensure_cache),
    MemoryConfig: Entry(open_memory, check_memory),
    OnlineConfig: Entry(open_online, check_buffer),
}


def describe_source(
    lm: LMConfig, layer: int, corpus: CorpusConfig, activations: HarvestConfig, cache_root: Path
) -> Origin:
    """What decides the activations that `activations` asks for. Raises `UserError` where they cannot be had."""
    return describe(lm, layer, corpus, activations, cache_root)


def check_source(origin: Origin, activations: HarvestConfig) -> None:
    """Raise `UserError` where the activations do not fit into memory, if they are to be held there."""
    SOURCES[type(activations)].check_memory(origin, activations)


def open_source(
    lm: LMConfig,
    layer: int,
    corpus: CorpusConfig,
    activations: HarvestConfig,
    cache_root: Path,
    *,
    accelerator: str = "auto",
) -> Source:
    """The source that `activations` asks for, ready to be read. Raises `UserError`.

    A language model that has to run uses the GPU if there is one, unless `accelerator` is cpu.
    """
    return SOURCES[type(activations)].open(lm, layer, corpus, activations, cache_root, accelerator=accelerator)
