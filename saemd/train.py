"""Train SAEs: one, or a sweep with the comparison of its seeds at the end.

    python -m saemd.train                                         # one run of the defaults
    python -m saemd.train init=uniform l0=80 seed=42              # another
    python -m saemd.train -m init=mirror,uniform seed=24,42 l0=20,40,80,160,320
    python -m saemd.train -m experiment=paper init=mirror,uniform seed=24,42 l0=20,40,80,160,320
    python -m saemd.train -m together=5 seed=24,42 l0=20,40,80,160,320     # five SAEs at a time from one stream

The same command again skips what is finished and goes on with what is not. Results: <run_root>, `runs` by default.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from functools import partial
from pathlib import Path

import hydra
from omegaconf import DictConfig
from rich.console import Console

from saemd.cli import CONF, FLAGS, compose_all, entry, one_line, typed
from saemd.config import Config
from saemd.errors import UserError, bad_value
from saemd.training.groups import train_groups
from saemd.training.record import finished, run_dir

SHOWS = {"-c", "--cfg", "-i", "--info", "--hydra-help", "--version"}  # what Hydra shows of itself, and starts nothing
say = partial(Console(stderr=True, highlight=False).print, soft_wrap=True)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(composed: DictConfig) -> dict[str, float]:
    """One job of a sweep. Its failure is reported at once; Hydra goes on with the next job."""
    config = typed(composed)
    try:
        return run(config)
    except Exception as error:
        tell_failure(config, error)
        raise


def run(config: Config) -> dict[str, float]:
    from saemd.training.run import train

    started = time.monotonic()
    metrics = train(config)
    tell(config, metrics, f"{time.monotonic() - started:.0f} s")
    return metrics


def tell_outcome(config: Config, outcome: dict[str, float] | Exception, when: str) -> None:
    if isinstance(outcome, Exception):
        tell_failure(config, outcome)
    else:
        tell(config, outcome, when)


def tell_failure(config: Config, error: Exception) -> None:
    vars(error)["told"] = True
    if not isinstance(error, UserError):
        traceback.print_exception(error)
    say(f"[red]failed[/] {run_dir(config)}: {one_line(error)}")


def tell(config: Config, metrics: dict[str, float], when: str) -> None:
    """One line on a finished run."""
    figures = f"L0 {metrics['l0']:.1f} (target {metrics['target_l0']})  FVU {metrics['fvu']:.3f}"
    say(f"{run_dir(config)}  {figures}  dead {metrics['dead_fraction']:.1%}  {when}")


def finished_before(configs: list[Config]) -> bool:
    """Are all jobs finished already? Then they are told of here: Hydra would compose each of them twice more."""
    try:
        found = [finished(config) for config in configs]
    except UserError:  # the job itself reports what is there in its place
        return False
    if any(metrics is None for metrics in found):
        return False
    for config, metrics in zip(configs, found, strict=True):
        assert metrics
        tell(config, metrics, "finished before")
    return True


def check_sweep(configs: list[Config]) -> None:
    """Refuse before the first job what would only show in a later one, or behind the activation cache."""
    import torch

    from saemd.lm.load import lm_info
    from saemd.sae.init import refuse_width
    from saemd.training.schedules import schedules

    folders = set()
    for config in configs:
        folder = run_dir(config)
        if folder in folders:
            raise bad_value("seed", config.seed, f"two jobs of this sweep would share {folder}; name each value once")
        folders.add(folder)
        info = lm_info(config.lm, Path(config.cache_root))
        if config.layer >= info.n_layers:
            raise bad_value("layer", config.layer, f"{info.name} has layers 0 to {info.n_layers - 1}")
        d_sae = config.d_sae or 2 * info.mlp_width
        if config.l0 > d_sae:
            raise bad_value("l0", config.l0, f"the target L0 cannot exceed d_sae={d_sae}")
        if config.init.name == "mirror":
            refuse_width(d_sae, info.mlp_width)
        schedules(config.recipe, config.tokens // config.batch_size)
        if config.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
            remedy = "this machine has no GPU that torch can use; use auto or cpu"
            raise bad_value("accelerator", config.accelerator, remedy)
    for run_root in {config.run_root for config in configs}:
        try:
            Path(run_root).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise bad_value("run_root", run_root, f"cannot be made ({error.strerror}); choose another folder") from None
        if not os.access(run_root, os.W_OK):
            raise bad_value("run_root", run_root, "cannot be written; choose another folder")


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    if SHOWS & set(arguments):
        job()
        return 0
    configs, multirun = compose_all(arguments), bool(FLAGS & set(arguments))
    check_sweep(configs)
    together = configs[0].together
    if together > 1 and not multirun:
        raise bad_value("together", together, "one job trains alone; add -m and several values, such as l0=20,40")
    if together > 1 and any(word.startswith("hydra/") for word in arguments):
        raise bad_value("together", together, "such jobs share one process: leave hydra/launcher and hydra/sweeper out")
    failed = False
    try:
        if not finished_before(configs):
            if together > 1:
                failed = not train_groups(configs, tell_outcome)
            elif multirun or any(word.startswith("hydra") for word in arguments):
                job()
            else:  # without Hydra's own line on a failure
                run(configs[0])
    except Exception as error:
        if not multirun or not vars(error).get("told"):  # of the sweep itself, as a folder that cannot be written
            raise
        failed = True  # a job's own, which it has told; what is finished is compared all the same
    if multirun:
        conclude(configs)
    return int(failed)


def conclude(configs: list[Config]) -> None:
    """Compare the seeds of every run root of the sweep, and log the result."""
    from saemd.logging import log_stability
    from saemd.stability.__main__ import main as compare

    for run_root in sorted({config.run_root for config in configs}):
        compare([f"run_root={run_root}"])
        if (Path(run_root) / "stability" / "stability.json").is_file():
            log_stability(configs[0].logger, Path(run_root), group=Path(run_root).name)


if __name__ == "__main__":
    entry(main)
    sys.exit()
