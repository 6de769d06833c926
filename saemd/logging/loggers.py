"""One logger per job: Lightning's CSVLogger or WandbLogger, opened before training and finished in a `finally`.

wandb has one background process for all runs of a Python process. So each job of a sweep is opened as a run of its own
and closed with an exit code: otherwise its rows would go to another job's run, or the run would stay 'running'.
"""

from __future__ import annotations

import hashlib
import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from saemd.errors import bad_value
from saemd.logging import names
from saemd.logging.account import reach, resolve_mode, server
from saemd.logging.config import LoggerConfig, check
from saemd.progress import print_line

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger
    from wandb import Run

NoLogger = Literal[False]  # what Lightning's Trainer wants for "no logger"; None would make it log by default
INIT_TIMEOUT_SECONDS = 60


def run_id(group: str, name: str, fingerprint: str) -> str:
    """A wandb id from the run's values, so that a resumed job continues its own run."""
    return hashlib.sha256("\n".join((group, name, fingerprint)).encode()).hexdigest()[:16]


def make_logger(
    config: LoggerConfig, run_dir: Path, *, group: str, run_name: str, run_id: str, resolved_config: dict[str, Any]
) -> Logger | NoLogger:
    """The job's logger, for `Trainer(logger=…)`; False where nothing is logged. All its files are in `run_dir`.

    `group` names the sweep (`config.group` overrides it), `run_id` names the run when it is resumed, and
    `resolved_config` is the whole configuration as plain data. Raises `UserError` for a bad configuration, and where
    wandb cannot be reached.
    """
    check(config)
    if config.name == "none" or (config.name == "wandb" and resolve_mode(config) == "disabled"):
        return False
    run_dir.mkdir(parents=True, exist_ok=True)
    if config.name == "csv":
        from lightning.pytorch.loggers import CSVLogger

        # Every row is written at once: a killed run keeps its rows, and a reader can follow. Only each tenth step logs.
        return CSVLogger(save_dir=run_dir, name="csv", flush_logs_every_n_steps=1)
    from lightning.pytorch.loggers import WandbLogger

    run = start_run(
        config,
        run_dir,
        resume="allow",
        group=group,
        name=run_name,
        id=run_id,
        job_type="train",
        tags=_tags(resolved_config),
        config=resolved_config,
    )
    run.define_metric(names.TOKENS, hidden=True)
    run.define_metric("train/*", step_metric=names.TOKENS)
    return WandbLogger(experiment=run, save_dir=run_dir, project=config.project, name=run_name, id=run_id)


def finish(logger: Logger | NoLogger | None, exit_code: int) -> None:
    """Close the job's logger. To be called in `finally`, with exit code 0 for success."""
    if not logger:
        return
    logger.finalize("success" if exit_code == 0 else "failed")
    if is_wandb(logger):
        logger.experiment.finish(exit_code=exit_code)  # type: ignore[attr-defined]


def log_summary(logger: Logger | NoLogger | None, metrics: dict[str, Any]) -> None:
    """Log the figures of `metrics.json` as `final/<name>`: in wandb's summary, or as the last row of the CSV file."""
    if not logger:
        return
    assert not any(key.startswith(names.FINAL_PREFIX) for key in metrics), "metrics are named as in metrics.json"
    final = {names.FINAL_PREFIX + key: value for key, value in metrics.items()}
    if is_wandb(logger):
        logger.experiment.summary.update(final)  # type: ignore[attr-defined]
    else:
        logger.log_metrics(final, step=metrics.get("steps"))


def is_wandb(logger: Logger) -> bool:
    """Whether this is a WandbLogger, without importing wandb."""
    return type(logger).__name__ == "WandbLogger"


def start_run(config: LoggerConfig, folder: Path, /, *, group: str, **init: Any) -> Run:
    """`wandb.init` with the arguments `init`, for a run of its own, in the mode of the configuration.

    Offline, error reporting is switched off too: wandb 0.31 would call its telemetry server when the process ends.
    Raises `UserError` where wandb cannot start the run.
    """
    mode = resolve_mode(config)
    if mode == "offline":
        os.environ["WANDB_ERROR_REPORTING"] = "false"
    else:
        reach(server())
    import wandb
    from wandb.errors import Error

    if not re.fullmatch(r"[\w.-]{1,128}", init["id"]):
        raise bad_value("wandb run id", init["id"], "use letters, digits, dots and dashes")
    settings = wandb.Settings(init_timeout=INIT_TIMEOUT_SECONDS, quiet=True, silent=mode == "offline")
    try:
        run = wandb.init(
            project=config.project,
            entity=config.entity,
            group=config.group or group,
            dir=folder,
            mode=mode,  # type: ignore[arg-type]
            reinit="create_new",
            settings=settings,
            **init,
        )
    except Error as error:
        reason = str(error).splitlines()[0]
        remedy = f"wandb could not start the run ({reason}); use logger.mode=offline and `wandb sync` later"
        raise bad_value("logger.mode", config.mode, remedy) from error
    if mode == "offline":
        _say_offline()
    return run


@cache
def _say_offline() -> None:
    upload = "`wandb sync <run directory>/wandb/offline-run-*` uploads it later"
    print_line(f"wandb: offline; {upload}, `wandb login` puts runs online")


def _tags(resolved: dict[str, Any]) -> list[str]:
    tags = [f"init={resolved['init']['label']}", f"l0={resolved['l0']}", f"seed={resolved['seed']}"]
    return [tag[:64] for tag in tags]  # wandb's limit
