"""Train SAEs: one, or a sweep with the comparison of its seeds at the end.

    saemd train                                         # one run of the defaults
    saemd train init=uniform l0=80 seed=42              # another
    saemd train -m init=mirror,uniform seed=24,42 l0=20,40,80,160,320
    saemd train -m layer=6,12 init=mirror,uniform seed=24,42    # any other key: it becomes a folder
    saemd train -m together=auto init=mirror,uniform seed=24,42 # on a GPU: many SAEs as one
    saemd train -m hydra/launcher=joblib seed=24,42             # several at a time; slurm, ray: on a cluster
    saemd train -m experiment=paper init=mirror,uniform seed=24,42 l0=20,40,80,160,320

The same command again skips what is finished and goes on with what is not. Given several times at once, as in several
shells, the commands share a sweep's jobs. Results: <run_root>, `runs` by default.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.text import Text

from saemd.arguments import CONF
from saemd.cli import quiet_warnings
from saemd.composition import FLAGS, compose_all, is_sweep, job_overrides, register, typed, with_free_folder
from saemd.config import Config
from saemd.errors import UserError
from saemd.launchers import Launcher, find_launcher, launch
from saemd.locks import locked
from saemd.outcomes import report, report_failure, show
from saemd.preflight import check_jobs
from saemd.ranks import launched
from saemd.remote.urls import url_of
from saemd.runs import HeldError, refuse_held, run_dir

SHOWS = {"-c", "--cfg", "-i", "--info", "--hydra-help", "--version"}  # what Hydra shows of itself, and starts nothing
_held: list[Config] | None = None  # jobs of this process's sweep that other processes train


class ReportedError(Exception):
    """A job's failure that has been shown already; jobs in other processes hand it back to the sweep."""


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(composed: DictConfig) -> dict[str, float]:
    """One job of a sweep. Its failure is reported at once; Hydra goes on with the next job."""
    quiet_warnings()  # also in the processes of a launcher that Hydra itself runs
    config = typed(composed, HydraConfig.get().runtime.choices)
    try:
        return run(config)
    except Exception as error:
        if _held is not None and isinstance(error, HeldError):  # None: in a process of another launcher
            _held.append(config)
            return {}
        report_failure(config, error)
        raise ReportedError(str(error)) from error


def run(config: Config) -> dict[str, float]:
    from saemd.seeds import train
    from saemd.training import record

    if metrics := record.finished(config):
        report(config, metrics, "finished before")
        return metrics
    refuse_held(run_dir(config))
    started = time.monotonic()
    metrics = train(config)
    report(config, metrics, f"{time.monotonic() - started:.0f} s")
    return metrics


def train_tasks(unfinished: list[Config], launcher: Launcher | None) -> bool:
    """Train the jobs in a launcher's workers or, without one, in stacks in this process; returns whether one failed."""
    if not unfinished:
        return False
    from saemd.launchers.beside import train_all
    from saemd.launchers.worker import train_stacks

    return train_all(unfinished, partial(launch, launcher) if launcher else train_stacks)


def main(arguments: list[str]) -> int:
    global _held
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    if any(word.partition("=")[0] in SHOWS for word in arguments):
        if is_sweep(arguments):
            raise UserError("-m: Hydra shows the configuration of one job; leave -m out")
        register()
        sys.argv[1:] = with_free_folder(arguments)
        job()
        return 0
    configs, multirun = compose_all(arguments), is_sweep(arguments)
    launcher = find_launcher(arguments, configs)
    finished = check_jobs(configs, on_this_machine=launcher is None or not launcher.is_remote)
    if configs[0].devices > 1 and launched().rank:
        from saemd.seeds import follow

        follow(configs[0])
        return 0
    unfinished = [config for config, metrics in zip(configs, finished, strict=True) if not metrics]
    if unfinished:
        from saemd.planning.outlook import outlook

        show(Text(outlook(configs, multirun)))
    failed, _held = False, [] if multirun else None
    try:
        if not unfinished or launcher or any(config.together != 1 for config in configs):
            for config, metrics in zip(configs, finished, strict=True):
                if metrics:
                    report(config, metrics, "finished before")
            failed = train_tasks(unfinished, launcher)
        elif multirun or any(word.startswith("hydra") for word in arguments):
            sys.argv[1:] = [*({*FLAGS} & {*arguments}), *job_overrides(arguments), *_hydra_folder(configs[0])]
            job()
        else:  # without Hydra's own line on a failure
            run(configs[0])
    except ReportedError as error:
        if not multirun and error.__cause__:
            raise error.__cause__ from None
        failed = True  # what is finished is compared all the same
    if _held is not None:  # a sweep
        failed |= train_tasks(_held, None)
        conclude(configs)
    return int(failed)


def _hydra_folder(config: Config) -> list[str]:
    """Overrides for Hydra's own folder, which by default is what run_root says: here the local folder of a URL."""
    return [f"hydra.{mode}.dir='{config.run_root}'" for mode in ("run", "sweep") if url_of(Path(config.run_root))]


def conclude(configs: list[Config]) -> None:
    """Compare the seeds of every run root of the sweep, and log the result."""
    from saemd.logging import log_stability
    from saemd.stability.__main__ import main as compare
    from saemd.threads import use_threads

    use_threads(configs[0].threads)
    for run_root in sorted({config.run_root for config in configs}):
        with locked(Path(run_root) / "stability" / ".conclude.lock"):  # identical commands end together
            compare([f"run_root={run_root}"])
            log_stability(configs[0].logger, Path(run_root), group=Path(run_root).name)
