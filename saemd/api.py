"""The commands as Python functions; `import saemd` offers them as `saemd.compose`, `saemd.train` and so on.

config = saemd.compose("init=mirror", "l0=40", "seed=24")
run = saemd.train(config)
other = saemd.train(saemd.compose("init=mirror", "l0=40", "seed=42"))
saemd.compare(run, other).summary()
saemd.load_sae(run.path).encode(x)
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from saemd.cli import one_line, quiet_warnings
from saemd.composition import FLAGS, compose_all
from saemd.config import Config, check
from saemd.errors import UserError
from saemd.runs import Run, read_run, run_dir
from saemd.sae import SAE, load_finite

if TYPE_CHECKING:
    from saemd.stability import Comparison


def compose(*overrides: str) -> Config:
    """The checked configuration of one job: the defaults of `conf/`, changed by `key=value` as on the command line.

    Raises `UserError` with the line that the command would print. For another seed compose again: `seed` also sets
    `init_seed` and `data_seed`.
    """
    (config,) = _compose(overrides)
    return config


def compose_sweep(*overrides: str) -> list[Config]:
    """The checked configurations of a sweep, in which `seed=24,42` stands for two jobs, as behind `-m`."""
    return _compose(overrides, "-m")


def train(config: Config) -> Run:
    """Train, measure and save one SAE in its run directory, and read the finished run.

    The run has its directory as `path`, its `metrics`, and the figures of each latent; `load_sae(run.path)` loads its
    SAE, and `compare` takes it as it is. A run that is finished already is only read, and an interrupted one goes on
    from its last checkpoint. Raises `UserError`, before anything expensive, where the job could not be trained to its
    end.
    """
    from saemd.preflight import check_jobs
    from saemd.seeds import train as train_run

    with warnings.catch_warnings():
        quiet_warnings()
        check(config)
        check_jobs([config])
        train_run(config)
    return read_run(run_dir(config))


def compare(a: SAE | Run | Path | str, b: SAE | Run | Path | str) -> Comparison:
    """Match the latents of two SAEs, each given as such, as a run, or as the folder that it is saved in.

    Raises `UserError` where a folder holds no SAE, or one with NaN or infinite weights.
    """
    from saemd.stability import compare as compare_saes

    return compare_saes(_sae(a), _sae(b))


def _compose(overrides: tuple[str, ...], *flags: str) -> list[Config]:
    for word in overrides:
        if word in FLAGS:
            raise UserError(f"{word}: a flag of the command line; call saemd.compose_sweep for a sweep")
    try:
        return compose_all([*flags, *overrides])
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(one_line(error)) from error


def _sae(source: SAE | Run | Path | str) -> SAE:
    if isinstance(source, SAE):
        return source
    return load_finite(source.path if isinstance(source, Run) else source)
