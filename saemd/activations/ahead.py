"""Results made by threads before they are asked for."""

from __future__ import annotations

import atexit
from collections import deque
from collections.abc import Callable, Generator, Iterator
from itertools import cycle, islice, starmap
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, TypeVar

Result = TypeVar("Result")


def made_ahead(
    make: Callable[..., Result], tasks: Iterator[tuple[Any, ...]], n_threads: int, ahead: int, name: str
) -> Generator[Result]:
    """`make(*task)` of each task, in order, `ahead` of them before they are asked for; without threads where it is 0.

    Thread i takes every n-th task, by queues of its own, since the futures of an executor cost a third of what a small
    batch does. An exception reaches the consumer in its place. The threads end with the iteration or the interpreter.
    """
    if ahead == 0:
        yield from starmap(make, tasks)
        return
    given: list[SimpleQueue[tuple[Any, ...] | None]] = [SimpleQueue() for _ in range(n_threads)]
    made: list[SimpleQueue[tuple[Any, BaseException | None]]] = [SimpleQueue() for _ in range(n_threads)]
    over = Event()

    def work(mine: SimpleQueue[tuple[Any, ...] | None], out: SimpleQueue[tuple[Any, BaseException | None]]) -> None:
        while (task := mine.get()) is not None and not over.is_set():
            try:
                out.put((make(*task), None))
            except BaseException as error:
                out.put((None, error))

    # Daemons, so that the interpreter's end does not wait for them before it calls `stop`; without that it may abort.
    threads = [
        Thread(target=work, args=queues, name=f"{name}-{i}", daemon=True)
        for i, queues in enumerate(zip(given, made, strict=True))
    ]

    lanes, waiting = cycle(zip(given, made, strict=True)), deque[SimpleQueue[tuple[Any, BaseException | None]]]()

    def give(n: int) -> None:
        for task, (to, of) in zip(islice(tasks, n), lanes, strict=False):
            to.put(task)
            waiting.append(of)

    def stop() -> None:
        over.set()
        for queue in given:
            queue.put(None)
        for thread in threads:
            thread.join()

    for thread in threads:
        thread.start()
    atexit.register(stop)
    try:
        give(ahead)
        while waiting:
            result, error = waiting.popleft().get()
            if error is not None:
                raise error
            give(1)
            yield result
    finally:
        atexit.unregister(stop)
        stop()
