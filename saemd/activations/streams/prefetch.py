"""Results that threads make before they are asked for."""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Result = TypeVar("Result")


def prefetched(makers: Iterator[Callable[[], Result]], ahead: int, n_threads: int, name: str) -> Generator[Result]:
    """What each maker returns, in order. Threads call `ahead` makers early; with `ahead=0` there are no threads.

    A maker's exception is raised in the place of its result. The threads end with the iteration or the interpreter,
    once they have made what they are working on.
    """
    if ahead == 0:
        for make in makers:
            yield make()
        return
    with ThreadPoolExecutor(n_threads, thread_name_prefix=name) as threads:
        pending = deque(threads.submit(make) for make in islice(makers, ahead))
        try:
            while pending:
                result = pending.popleft().result()
                pending.extend(threads.submit(make) for make in islice(makers, 1))
                yield result
        finally:
            for future in pending:
                future.cancel()
