"""What `conf/logger/` may say."""

from __future__ import annotations

from dataclasses import dataclass

from saemd.errors import bad_value

NAMES = ("none", "csv", "wandb")
MODES = ("auto", "online", "offline")


@dataclass
class LoggerConfig:
    """Where a run's metrics go, beside the files of its run directory."""

    name: str = "wandb"  # none, csv, wandb
    project: str = "saemd"  # wandb project
    entity: str | None = None  # wandb user or team; null: the account's default
    mode: str = "auto"  # auto: online where an API key is found, else offline; online; offline
    group: str | None = None  # wandb group of a sweep's runs; null: the name of run_root


def check(config: LoggerConfig) -> None:
    """Refuse a logger or a mode that does not exist. Raises `UserError`."""
    if config.name not in NAMES:
        raise bad_value("logger.name", config.name, f"choose one of {', '.join(NAMES)}")
    if config.mode not in MODES:
        raise bad_value("logger.mode", config.mode, f"choose one of {', '.join(MODES)}")
    if not config.project:
        raise bad_value("logger.project", repr(config.project), "name a wandb project")
