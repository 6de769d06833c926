"""Results made before they are asked for: their order, who makes them, and what becomes of errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from saemd.activations.ahead import made_ahead


def numbers(n: int) -> Iterator[tuple[int]]:
    return ((i,) for i in range(n))


@pytest.mark.parametrize("n_threads", [1, 2, 4])
@pytest.mark.parametrize("ahead", [0, 1, 3, 100])
def test_results_come_in_order_and_each_is_made_once(n_threads: int, ahead: int) -> None:
    made = []

    def make(i: int) -> int:
        time.sleep(0.001 * (i % 3))
        made.append(i)
        return i * i

    assert list(made_ahead(make, numbers(50), n_threads, ahead, "test")) == [i * i for i in range(50)]
    assert sorted(made) == list(range(50))


def test_who_waits_makes_the_next() -> None:
    """The thread is held at the first; the consumer makes what follows meanwhile, but no more than are made ahead."""
    held, begun, makers = threading.Event(), threading.Event(), {}

    def make(i: int) -> int:
        makers[i] = threading.current_thread().name
        if i == 0:
            begun.set()
            assert held.wait(10)
        elif i == 3:
            held.set()
        return i

    def tasks() -> Iterator[tuple[int]]:
        yield (0,)
        assert begun.wait(10)
        yield from ((i,) for i in range(1, 6))

    assert list(made_ahead(make, tasks(), 1, 4, "ahead")) == list(range(6))
    me = threading.current_thread().name
    assert makers[0] == "ahead-0"
    assert [makers[i] for i in (1, 2, 3)] == [me] * 3


@pytest.mark.parametrize("n_threads", [1, 3])
def test_an_error_comes_in_its_place_and_ends_the_threads(n_threads: int) -> None:
    def make(i: int) -> int:
        if i == 5:
            raise ValueError("the fifth")
        return i

    made, found = made_ahead(make, numbers(50), n_threads, 4, "failing"), []
    with pytest.raises(ValueError, match="the fifth"):
        found.extend(made)
    assert found == [0, 1, 2, 3, 4]
    assert not [t for t in threading.enumerate() if t.name.startswith("failing")]


def test_an_interrupt_of_the_consumer_waits_for_no_turn() -> None:
    """While it makes a later result itself."""
    held, begun, me = threading.Event(), threading.Event(), threading.current_thread()

    def make(i: int) -> int:
        if threading.current_thread() is me:
            held.set()
            raise KeyboardInterrupt
        begun.set()
        assert held.wait(10)
        return i

    def tasks() -> Iterator[tuple[int]]:
        yield (0,)
        assert begun.wait(10)
        yield (1,)

    with pytest.raises(KeyboardInterrupt):
        next(made_ahead(make, tasks(), 1, 2, "interrupted"))
    assert not [t for t in threading.enumerate() if t.name.startswith("interrupted")]


def test_threads_end_with_an_iteration_that_is_left() -> None:
    made = made_ahead(lambda i: i, numbers(50), 2, 4, "left")
    assert next(made) == 0
    assert [t for t in threading.enumerate() if t.name.startswith("left")]
    made.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("left")]
