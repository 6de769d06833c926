"""The sources of activations, by the class of their configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from saemd.activations.config import ActivationsConfig
from saemd.activations.harvest import describe, ensure_cache
from saemd.activations.manifest import Origin
from saemd.activations.source import Source
from saemd.corpus.config import CorpusConfig
from saemd.lm.config import LMConfig


class Entry(NamedTuple):
    """How a source is described, without the language model's weights or the text, and how it is opened."""

    describe: Callable[..., Origin]
    open: Callable[..., Source]


SOURCES: Mapping[type, Entry] = {ActivationsConfig: Entry(describe, ensure_cache)}


def describe_source(
    lm: LMConfig, layer: int, corpus: CorpusConfig, activations: ActivationsConfig, cache_root: Path
) -> Origin:
    """What decides the activations that `activations` asks for. Raises `UserError` where they cannot be had."""
    return SOURCES[type(activations)].describe(lm, layer, corpus, activations, cache_root)


def open_source(
    lm: LMConfig,
    layer: int,
    corpus: CorpusConfig,
    activations: ActivationsConfig,
    cache_root: Path,
    *,
    accelerator: str = "auto",
) -> Source:
    """The source that `activations` asks for, ready to be read. Raises `UserError`.

    A language model that has to run uses the GPU if there is one, unless `accelerator` is cpu.
    """
    return SOURCES[type(activations)].open(lm, layer, corpus, activations, cache_root, accelerator=accelerator)
