"""What a worker process does with its task: the jobs of one stack, or a single job."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from saemd.cli import quiet_warnings
from saemd.config import Config
from saemd.errors import UserError
from saemd.outcomes import Outcome, failure
from saemd.preflight import check_hardware
from saemd.progress import quiet_libraries
from saemd.runs import refuse_held, run_dir
from saemd.training import record


def train_stack(stack: Sequence[Config]) -> list[Outcome]:
    """Train unfinished jobs of one stack together, or the only one alone. A failure is an outcome, and not raised."""
    from saemd.seeds import train, train_together

    started = time.monotonic()
    try:
        for config in stack:
            refuse_held(run_dir(config))
        # With `together` also a job that is left alone, so that its bits do not depend on which others go on with it.
        results = [train(stack[0])] if stack[0].together == 1 else train_together(stack)
    except Exception as error:
        first = failure(error)
        return [first, *(dataclasses.replace(first, trace="") for _ in stack[1:])]  # one traceback
    note = f"{time.monotonic() - started:.0f} s" + (f", with {len(stack) - 1} more" if len(stack) > 1 else "")
    return [failure(result) if isinstance(result, UserError) else Outcome(result, note) for result in results]


def train_stacks(configs: Sequence[Config]) -> Iterator[tuple[list[Config], list[Outcome]]]:
    """Train unfinished jobs in this process, in stacks of at most `together`: each stack with its outcomes.

    Each stack is divided once more before it starts, since other processes may have trained a part of it on.
    """
    from saemd.training.checkpoints import step_of
    from saemd.training.stack.grouping import stack_size, stacks

    parts = len({config.corpus.part for config in configs})
    sized = [dataclasses.replace(config, together=stack_size(config, parts)) for config in configs]
    for stack in stacks(sized, lambda config: step_of(run_dir(config))):
        for part in stacks(stack, lambda config: step_of(run_dir(config))):
            yield part, train_stack(part)


def train_task(task: Sequence[Config], folder: str) -> list[Outcome]:
    """Train the jobs of a task in this process; called again after an interruption, it goes on.

    `folder` is the working directory of the sweep, from which relative paths count. Raises `KeyboardInterrupt` where
    SIGTERM stops it.
    """
    from saemd.training.checkpoints import step_of
    from saemd.training.stack.grouping import stack_size, stacks

    quiet_libraries()
    quiet_warnings()
    outcomes: dict[Path, Outcome] = {}
    unfinished, parts = [], len({config.corpus.part for config in task})
    with stops_on_sigterm():
        os.chdir(folder)
        for config in task:
            try:
                if metrics := record.finished(config):
                    outcomes[run_dir(config)] = Outcome(metrics, "finished before")
                    continue
                check_hardware(config)
                size = 1 if config.together == 1 else stack_size(config, parts)
                unfinished.append(dataclasses.replace(config, together=size))
            except UserError as error:
                outcomes[run_dir(config)] = failure(error)
        for stack in stacks(unfinished, lambda config: step_of(run_dir(config))):
            outcomes |= dict(zip(map(run_dir, stack), train_stack(stack), strict=True))
    return [outcomes[run_dir(config)] for config in task]


@contextmanager
def stops_on_sigterm() -> Iterator[None]:
    """Within it, SIGTERM raises `KeyboardInterrupt`: at once, or in a training loop after the step that runs.

    The loop has Lightning's handler, which calls this one as well; the loop then saves `last.ckpt` and ends by itself.
    """

    def stop(*_: object) -> None:
        if signal.getsignal(signal.SIGTERM) is stop:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
