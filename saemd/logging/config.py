"""The keys of `conf/logger/`."""

import re
from dataclasses import dataclass

from saemd.errors import bad_value

NAMES = ("none", "csv", "wandb")
MODES = ("auto", "online", "offline")


@dataclass
class LoggerConfig:
    """Where a run's metrics go, besides its run directory."""

    name: str = "wandb"  # none, csv, wandb
    project: str = "saemd"  # wandb project
    entity: str | None = None  # wandb user or team; null: the account's default
    mode: str = "auto"  # auto: online where an API key is found, else offline; online; offline
    group: str | None = None  # wandb group of a sweep's runs; null: the name of run_root


def check(config: LoggerConfig) -> None:
    """Raises `UserError` for a logger or a mode that does not exist, and for names that wandb refuses."""
    if config.name not in NAMES:
        raise bad_value("logger.name", config.name, f"choose one of {', '.join(NAMES)}")
    if config.mode not in MODES:
        raise bad_value("logger.mode", config.mode, f"choose one of {', '.join(MODES)}")
    if not re.fullmatch(r"[^/\\#?%:]{1,128}", config.project):
        remedy = "wandb's projects have 1 to 128 letters, and none of / \\ # ? % :"
        raise bad_value("logger.project", repr(config.project), remedy)
    if config.group is not None and not 0 < len(config.group) <= 128:
        raise bad_value("logger.group", repr(config.group), "wandb's groups have 1 to 128 letters")
