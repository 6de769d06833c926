"""Results made before they are asked for: their order, how many are made early, and what becomes of errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from saemd.activations.streams.prefetch import prefetched


def makers(make: Callable[[int], int], n: int = 50) -> Iterator[Callable[[], int]]:
    return (partial(make, i) for i in range(n))


def running(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


@pytest.mark.parametrize("n_threads", [1, 2, 4])
@pytest.mark.parametrize("ahead", [0, 1, 3, 100])
def test_results_come_in_order_and_each_is_made_once(n_threads: int, ahead: int) -> None:
    made = []

    def make(i: int) -> int:
        time.sleep(0.001 * (i % 3))
        made.append(i)
        return i * i

    assert list(prefetched(makers(make), ahead, n_threads, "test")) == [i * i for i in range(50)]
    assert sorted(made) == list(range(50))


@pytest.mark.parametrize("ahead", [1, 3])
def test_threads_make_exactly_so_many_early(ahead: int) -> None:
    made: list[int] = []

    def make(i: int) -> int:
        made.append(i)
        return i

    results = prefetched(makers(make), ahead, 1, "early")
    assert made == []
    for i in range(5):
        assert next(results) == i
        deadline = time.monotonic() + 10
        while len(made) < i + 1 + ahead and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.01)
        assert made == list(range(i + 1 + ahead))
    results.close()


@pytest.mark.parametrize("n_threads", [1, 3])
def test_an_error_is_raised_in_its_place_and_ends_the_threads(n_threads: int) -> None:
    def make(i: int) -> int:
        if i == 5:
            raise ValueError("number five")
        return i

    results, received = prefetched(makers(make), 4, n_threads, "failing"), []
    with pytest.raises(ValueError, match="number five"):
        received.extend(results)
    assert received == [0, 1, 2, 3, 4]
    assert not running("failing")


def test_threads_end_with_an_iteration_that_is_left() -> None:
    results = prefetched(makers(lambda i: i), 4, 2, "left")
    assert next(results) == 0
    assert running("left")
    results.close()
    assert not running("left")
