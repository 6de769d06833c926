"""The contexts of a corpus in groups of one size, each of which becomes a shard."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from torch import Tensor

Context = tuple[Tensor, Tensor]  # input_ids [T] int64, keep [T] bool: False where a token's activation is not wanted


class Group(NamedTuple):
    """Consecutive contexts; fewer than a group's size only at the corpus' end, and none behind that."""

    contexts: list[Context]
    kept: int  # tokens whose activations are wanted


class Groups:
    """Groups by number, read in order. Those from the last `forget` on are held: 9 bytes a token."""

    def __init__(self, contexts: Callable[[], Iterator[Context]], size: int, first: int) -> None:
        """`contexts()` begins with the first one; the groups before number `first` are skipped."""
        self._contexts, self.size = contexts, size
        self._held: dict[int, Group] = {}
        self._open(first)

    def group(self, number: int) -> Group:
        if number not in self._held and number < self._next:
            self._open(number)
        while number not in self._held:
            contexts = list(islice(self._stream, self.size))
            self._held[self._next] = Group(contexts, sum(int(keep_T.sum()) for _, keep_T in contexts))
            self._next += 1
        return self._held[number]

    def forget(self, before: int) -> None:
        """Groups before this number are not needed any more."""
        for number in [number for number in self._held if number < before]:
            del self._held[number]

    def _open(self, number: int) -> None:
        self._stream, self._next = self._contexts(), number
        next(islice(self._stream, number * self.size, number * self.size), None)
