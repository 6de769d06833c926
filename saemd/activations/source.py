"""Where activations come from, as training sees it: the cache on disk, memory, or the language model itself (online).

To add a source, write its class, its dataclass of keys in `saemd.activations.config` (with a line in `SCHEMAS`), its
entry in `saemd.activations.registry.SOURCES` and its YAML in `conf/activations/`. Training needs no change.
"""

from collections.abc import Iterable
from typing import Any, Protocol

from torch import Tensor

from saemd.activations.disk.manifest import Origin
from saemd.activations.streams.stream import BatchStream


class Source(Protocol):
    """The activations of one layer of a language model on a corpus. Batches are divided by `scale`; all else is raw.

    `scale` gives the training activations a mean squared norm of 1, and `mean` [D] is their mean. `origin` is what
    decides the activations, and `fingerprint` is its digest.
    """

    @property
    def d_in(self) -> int: ...
    @property
    def scale(self) -> float: ...
    @property
    def mean(self) -> Tensor: ...
    @property
    def origin(self) -> Origin: ...
    @property
    def fingerprint(self) -> str: ...

    def summary(self) -> dict[str, Any]:
        """What a run records of its activations, as plain values."""
        ...

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """`n` different random training activations [n, D], or all of them if there are fewer."""
        ...

    def stream(self, batch_size: int, tokens: int, seed: int, rank: int = 0, world: int = 1) -> BatchStream:
        """`tokens` training activations in an order that `seed` fixes, without an incomplete last batch.

        Of `world` processes, process `rank` takes its own `batch_size / world` rows of each batch. The batches, and the
        state of the stream, are the same for any `world`. `batch_size` must be a multiple of it.
        """
        ...

    def heldout(self, batch_size: int) -> Iterable[Tensor]:
        """Every held-out activation once per iteration, in a fixed order; the last batch may be smaller."""
        ...
