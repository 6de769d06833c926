"""The jobs of a sweep in groups that train together: those that see the same batches."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from saemd.config import Config
from saemd.training.record import METRICS, run_dir

Tell = Callable[[Config, dict[str, Any] | Exception, str], None]

# A job's own keys. All others decide what is read, or how the one process reads and computes, and must be the same.
_OWN = ("init", "d_sae", "l0", "recipe", "seed", "init_seed", "logger", "run_root")


def groups(configs: list[Config]) -> list[list[Config]]:
    """Up to `together` jobs each; the groups and their jobs are in the order of the sweep."""
    found: list[list[Config]] = []
    filling: dict[str, list[Config]] = {}
    for config in configs:
        values = dataclasses.asdict(config)
        stream = json.dumps({key: value for key, value in values.items() if key not in _OWN}, sort_keys=True)
        group = filling.get(stream)
        if group is None or len(group) == config.together:
            group = filling[stream] = []
            found.append(group)
        group.append(config)
    return found


def train_groups(configs: list[Config], tell: Tell) -> bool:
    """Every job of a sweep, up to `together` at a time, in the place of Hydra's one by one. Did all succeed?

    `tell` hears of each one's outcome as soon as it is known, and when that was.
    """
    from saemd.training.run import train_together

    before = [config for config in configs if (run_dir(config) / METRICS).is_file()]
    succeeded = True
    for group in [[config] for config in before] + groups([config for config in configs if config not in before]):
        outcomes = train_together(group, partial(_tell_time, tell, time.monotonic()))
        succeeded = succeeded and not any(isinstance(outcome, Exception) for outcome in outcomes)
    return succeeded


def _tell_time(tell: Tell, started: float, config: Config, outcome: dict[str, Any] | Exception) -> None:
    together = outcome["trained_together"] if isinstance(outcome, dict) else 1
    seconds = f"{time.monotonic() - started:.0f} s"
    tell(config, outcome, seconds if together == 1 else f"{seconds}, {together} together")
