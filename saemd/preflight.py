"""What can be known of jobs from the command, the folders and the network: checked before the first expensive step.

`check_jobs` is for training, `check_caches` for the part of it that concerns activations alone.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from saemd.activations.disk.manifest import Origin
from saemd.config import Config, width
from saemd.corpus import check_corpus
from saemd.errors import UserError, bad_value
from saemd.lm.load import lm_info
from saemd.logging.account import check_account
from saemd.ranks import launched
from saemd.remote.store import check_store
from saemd.remote.urls import url_of
from saemd.runs import METRICS, differences, fetch_run, fetch_runs, identify, refuse_another, refuse_missed, run_dir
from saemd.runs.folders import check_name
from saemd.sae.starts import INITS
from saemd.training import record
from saemd.training.given import model_shape
from saemd.training.schedules import schedule

Part = TypeVar("Part")


def check_jobs(configs: Sequence[Config], on_this_machine: bool = True) -> list[dict[str, Any] | None]:
    """Raise `UserError` for the first job that could not be trained to its end.

    Returns `metrics.json`'s content of each job that is finished, and None for the others. What needs neither model nor
    text is checked first, as these may have to be fetched. Jobs that run on other machines need a GPU and memory there,
    not here: each worker calls `check_hardware`.
    """
    check_settings(configs)
    for run_root in {config.run_root for config in configs}:
        fetch_runs(Path(run_root))
    unfinished = [config for config in configs if not (run_dir(config) / METRICS).is_file()]
    for run_root in {config.run_root for config in unfinished}:
        _check_writable("run_root", run_root)
    for config in unfinished:
        fetch_run(run_dir(config))
    for logger in _different([config.logger for config in unfinished]):
        check_account(logger)
    origins = check_caches(configs, on_this_machine)
    for config in configs:
        _check_size(config, on_this_machine)
    return [_check_run(config, origin, on_this_machine) for config, origin in zip(configs, origins, strict=True)]


def check_hardware(config: Config) -> None:
    """Raise `UserError` where this machine has too little memory for a job, or lacks its GPU."""
    from saemd.activations.registry import check_source

    _check_accelerator(config)
    _check_size(config)
    check_source(_origin(config), config.activations)


def check_settings(configs: Sequence[Config]) -> None:
    """Raise `UserError` for what the command alone shows to be wrong. Nothing is fetched, made or written."""
    if len(configs) > 1 and any(config.devices > 1 for config in configs) and launched().world > 1:
        remedy = "torchrun and srun start the processes of one job; start each job of a sweep by itself"
        raise bad_value("devices", max(config.devices for config in configs), remedy)
    _check_folders(configs)
    for config in configs:
        _check_schedule(config)


def check_inputs(configs: Sequence[Config], on_this_machine: bool = True) -> None:
    """Raise `UserError` for a GPU or a text that is not there. Nothing is fetched, made or written."""
    for config in configs if on_this_machine else ():
        _check_accelerator(config)
    for corpus in _different([config.corpus for config in configs]):
        check_corpus(corpus)


def check_caches(configs: Sequence[Config], on_this_machine: bool = True) -> list[Origin]:
    """The activations that each job needs. Raises `UserError` where they could not be written."""
    from saemd.activations.disk.remote import fetch_records
    from saemd.activations.harvest.open import cache_folder

    check_inputs(configs, on_this_machine)
    for cache_root in {config.cache_root for config in configs}:
        _check_writable("cache_root", cache_root, must=False)
    origins = [_origin(config) for config in configs]
    for folder in {cache_folder(origin, Path(c.cache_root)) for origin, c in zip(origins, configs, strict=True)}:
        fetch_records(folder)
    return origins


def _origin(config: Config) -> Origin:
    from saemd.activations.registry import describe_source

    return describe_source(config.lm, config.layer, config.corpus, config.activations, Path(config.cache_root))


def _different(parts: list[Part]) -> list[Part]:
    """Each value once: the jobs of a sweep share most of them, and dataclasses have no hash."""
    return [part for i, part in enumerate(parts) if part not in parts[:i]]


def _check_folders(configs: Sequence[Config]) -> None:
    """No two jobs may share a run's folder."""
    folders: dict[Path, Config] = {}
    for config in configs:
        check_name(config)
        folder = run_dir(config)
        other = folders.setdefault(folder, config)
        if other is config:
            continue
        keys = differences(other, config)
        if not keys:
            raise bad_value("seed", config.seed, f"two jobs of this sweep would share {folder}; name each value once")
        shown = ", ".join(f"{key}={old} and {new}" for key, (old, new) in keys.items())
        raise UserError(f"{shown}: both jobs would share {folder}; give each its own run_root")


def _check_schedule(config: Config) -> None:
    if config.batch_size > config.activations.tokens:
        remedy = f"an epoch would have {config.activations.tokens:,} tokens; raise activations.tokens"
        raise bad_value("batch_size", config.batch_size, remedy)
    steps = config.tokens // config.batch_size
    config.sae.check(steps, schedule(config.recipe, steps).lr_decay_start)


def _check_size(config: Config, on_this_machine: bool = True) -> None:
    """What the model's width decides."""
    info = lm_info(config.lm, Path(config.cache_root))
    d_sae = width(config, info.mlp_width)
    if on_this_machine:
        _check_memory(config, info.d_model, d_sae)
    INITS[config.init.name].check(config.init, model_shape(config, info), d_sae)


def _check_memory(config: Config, d_in: int, d_sae: int) -> None:
    """A run holds two matrices [d_in, d_sae], their gradients and Adam's second moments, in float32."""
    needed, available = 6 * 4 * d_in * d_sae, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > available:
        memory = f"a run takes {needed / 1e9:,.0f} GB of memory, this machine has {available / 1e9:,.0f} GB"
        raise bad_value("d_sae", config.d_sae, f"{memory}; use fewer latents")


def _check_run(config: Config, origin: Origin, on_this_machine: bool) -> dict[str, Any] | None:
    """The job's metrics, if it is finished. Raises `UserError` where its folder holds another run, or a damaged one."""
    metrics = record.finished(config)
    if metrics is None:
        from saemd.activations.registry import check_source
        from saemd.training.checkpoints import step_of  # and with it Lightning, which finished jobs do not need

        if on_this_machine:
            check_source(origin, config.activations)
        refuse_another(run_dir(config), identify(config, origin))
        refuse_missed(config, step_of(run_dir(config)))
    else:
        refuse_missed(config, config.tokens // config.batch_size)
    return metrics


def _check_accelerator(config: Config) -> None:
    if config.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        remedy = "this machine has no GPU that torch can use; use auto or cpu"
        raise bad_value("accelerator", config.accelerator, remedy)
    if config.devices > 1 and launched().world == 1:
        on_gpu = config.accelerator != "cpu" and torch.cuda.is_available()
        n = torch.cuda.device_count() if on_gpu else len(os.sched_getaffinity(0))
        if config.devices > n:
            remedy = f"this machine has {n} {'GPUs' if on_gpu else 'cores, and no GPU that is used'}; use at most {n}"
            raise bad_value("devices", config.devices, remedy)


def _check_writable(key: str, folder: str, must: bool = True) -> None:
    """The folder is made. `must=False`: one that is there may be read-only, as a finished cache may.

    A store is asked too.
    """
    if url := url_of(Path(folder)):
        check_store(key, url, writes=must)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise bad_value(key, folder, f"cannot be made ({error.strerror}); choose another folder") from None
    if must and not os.access(folder, os.W_OK):
        raise bad_value(key, folder, "cannot be written; choose another folder")
