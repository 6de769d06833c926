"""A sweep beside other processes that train the same runs, as several identical commands do."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.text import Text

from saemd.config import Config
from saemd.errors import UserError
from saemd.outcomes import Outcome, failure, show, show_outcome
from saemd.remote.urls import url_of
from saemd.runs import fetch_run, holder, run_dir
from saemd.training import record

POLL_SECONDS, STORE_POLL_SECONDS = 1.0, 10.0
_NAMED = 3  # runs in the line about what is waited for

Train = Callable[[list[Config]], Iterator[tuple[list[Config], list[Outcome]]]]


def train_all(configs: Sequence[Config], train: Train) -> bool:
    """Train unfinished jobs by `train`, and report each; returns whether one failed.

    A run that another process trains comes last. It is waited for, and trained here if the other process leaves it
    unfinished. Each run is tried once.
    """
    left, failed = list(configs), False
    seen, announced = set[Path](), set[Path]()  # runs that others have held, and those that a line has named
    while left:
        holders = {run_dir(config): who for config in left if (who := holder(run_dir(config)))}
        seen |= holders.keys()
        free: list[Config] = []
        for config in [config for config in left if run_dir(config) not in holders]:
            left.remove(config)
            if outcome := _found(config, run_dir(config) in seen):
                show_outcome(config, outcome)
                failed |= outcome.metrics is None
            else:
                free.append(config)
        for task, outcomes in train(free) if free else ():
            for config, outcome in zip(task, outcomes, strict=True):
                if outcome.is_held:
                    left.append(config)
                    seen.add(run_dir(config))
                    continue
                show_outcome(config, outcome)
                failed |= outcome.metrics is None
        if left and not free:
            if new := [folder for folder in holders if folder not in announced]:
                named = ", ".join(f"{folder} ({holders[folder]})" for folder in new[:_NAMED])
                more = f" and {len(new) - _NAMED} more" if len(new) > _NAMED else ""
                show(Text(f"waiting for runs that others train: {named}{more}"))
            announced |= holders.keys()
            poll = STORE_POLL_SECONDS if url_of(Path(left[0].run_root)) else POLL_SECONDS
            time.sleep(poll * random.uniform(0.5, 1.5))  # so that two that wait do not take one run at the same time
    return failed


def _found(config: Config, was_held: bool) -> Outcome | None:
    """The outcome of a run that another process has finished, or that cannot be trained; None where it is to be."""
    try:
        if was_held:
            fetch_run(run_dir(config))
        metrics = record.finished(config)
    except UserError as error:
        return failure(error)
    return Outcome(metrics, "finished by another process") if metrics else None
