"""What a user may set for every SAEBench evaluation; each evaluation's file adds keys of its own.

Names and defaults are SAEBench 0.6.0's, as published for Gemma-2-2B; a test compares the defaults with SAEBench's own.
Imported in both environments.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from saemd.errors import bad_value

PACKAGED = "packaged"  # value of `data`: data out of published packages, see saemd.quality.packaged
Listing = list[tuple[str, int, int]]


@dataclass
class SAEBenchSettings:
    """The keys that all evaluations share. Without `data`, SAEBench reads its data sets from the hub."""

    OURS: ClassVar[tuple[str, ...]] = ("data", "repetitions")  # fields that SAEBench's own configuration lacks

    data: str = ""  # folder with copies of the hub's data sets under their names, or packaged; empty: the hub
    repetitions: int = 1  # with seeds random_seed, random_seed + 1, …
    random_seed: int = 42
    llm_batch_size: int = 32
    llm_dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        if self.repetitions < 1:
            raise bad_value("repetitions", self.repetitions, "at least 1")
        if not 0 <= self.random_seed <= 2**32 - self.repetitions:  # numpy's seeds have 32 bits
            raise bad_value("random_seed", self.random_seed, f"0 to {2**32 - self.repetitions}")
        if self.llm_dtype not in ("float32", "bfloat16", "float16"):
            raise bad_value("llm_dtype", self.llm_dtype, "float32, bfloat16 or float16")

    def config(self) -> dict[str, Any]:
        """The keys of SAEBench's own configuration."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in self.OURS}

    def folders(self) -> dict[str, str]:
        """The keys that may name a folder on this machine, with their values."""
        return {} if self.data == PACKAGED else {"data": self.data}

    def local_files(self) -> dict[str, Listing]:
        """The files in each of the user's folders that these settings name."""
        paths = {key: Path(value).expanduser() for key, value in self.folders().items() if value}
        return {key: listing(path) for key, path in paths.items() if path.is_dir()}

    def kept_by(self) -> list[Any]:
        """Values of `OURS` that also decide which kept results can be used again: `text`, then `max_words`.

        An evaluation with another such key appends it. The names of folders kept earlier depend on the first two.
        """
        return [None, None]


@dataclass
class HeadlineSettings(SAEBenchSettings):
    """Settings of an evaluation whose score is the figure at one of several k or N, those of its key `MEASURED`."""

    OURS = (*SAEBenchSettings.OURS, "headline")
    MEASURED: ClassVar[str] = ""

    headline: int = 1  # the k whose accuracy is the score

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.headline not in (measured := getattr(self, self.MEASURED)):
            raise bad_value("headline", self.headline, f"one of {self.MEASURED}={measured}")


def listing(folder: Path) -> Listing:
    """Name, size and time of every file in the folder: when one of them changes, it is another data set."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
