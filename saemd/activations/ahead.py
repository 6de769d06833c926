"""Results made by threads before they are asked for."""

from __future__ import annotations

import atexit
from collections import deque
from collections.abc import Callable, Generator, Iterator
from itertools import islice, starmap
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any, Generic, TypeVar, cast

Result = TypeVar("Result")


class _Job(Generic[Result]):
    """A result that is made by whoever comes first."""

    def __init__(self, make: Callable[..., Result], task: tuple[Any, ...]) -> None:
        self._make, self._task = make, task
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._begun, self._made = Lock(), Lock()
        self._made.acquire()

    def run(self) -> bool:
        """Make it, unless someone else does. An error is kept for `take`."""
        if not self._begun.acquire(blocking=False):
            return False
        try:
            self._result = self._make(*self._task)
        except BaseException as error:
            self._error = error
            if not isinstance(error, Exception):  # an interrupt waits for no turn
                raise
        finally:
            self._made.release()
        return True

    def take(self, others: deque[_Job[Result]]) -> Result:
        """The result, once; while another thread makes it, the first of the others that nobody has begun is made."""
        if not self.run():
            while not self._made.acquire(blocking=False):
                if not any(job.run() for job in others):
                    self._made.acquire()
                    break
        if self._error is not None:
            raise self._error
        result, self._result = self._result, None
        return cast(Result, result)


def made_ahead(
    make: Callable[..., Result], tasks: Iterator[tuple[Any, ...]], n_threads: int, ahead: int, name: str
) -> Generator[Result]:
    """`make(*task)` of each task, in order, `ahead` of them before they are asked for; without threads where it is 0.

    Whoever asks for one that is not there yet helps to make them, since on few cores a thread more would only take
    turns with the others. An exception reaches the consumer in its place. The threads end with the iteration or the
    interpreter.
    """
    if ahead == 0:
        yield from starmap(make, tasks)
        return
    given: SimpleQueue[_Job[Result] | None] = SimpleQueue()
    waiting: deque[_Job[Result]] = deque()
    over = Event()

    def work() -> None:
        while (job := given.get()) is not None and not over.is_set():
            job.run()

    # Daemons, so that the interpreter's end does not wait for them before it calls `stop`; without that it may abort.
    threads = [Thread(target=work, name=f"{name}-{i}", daemon=True) for i in range(n_threads)]

    def give(n: int) -> None:
        for task in islice(tasks, n):
            job = _Job(make, task)
            waiting.append(job)
            given.put(job)

    def stop() -> None:
        over.set()
        for _ in threads:
            given.put(None)
        for thread in threads:
            thread.join()

    for thread in threads:
        thread.start()
    atexit.register(stop)
    try:
        give(ahead)
        while waiting:
            job = waiting.popleft()
            result = job.take(waiting)
            give(1)
            yield result
    finally:
        atexit.unregister(stop)
        stop()
