"""SAEs that the command line names, from anywhere: each becomes a `Run` of which only the weights need to be known."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from saemd.errors import UserError, bad_value
from saemd.runs import CONFIG, LATENTS, METRICS, Run, read_run
from saemd.runs.finished import read_sae_files
from saemd.runs.folders import place_of
from saemd.sae import load_finite
from saemd.sae.export import matrices
from saemd.sae.formats import locate
from saemd.sae.measures import Pooled, row_cosines
from saemd.stability.matching.hungarian import check_memory
from saemd.stability.siblings import NAMED, Pair
from saemd.stability.starts import digest


def named_runs(addresses: Mapping[str, str], start: str | None = None) -> list[Run]:
    """The SAEs as runs, whose `init` is their name and `config["SAEs"]` their address.

    Of SAEs from elsewhere `metrics` are None, the figures of latents NaN, and all latents count as alive. Cosines with
    `start`, an SAE's address, are those of equal indices. Raises `UserError` where an SAE cannot be read or is not
    finite, and where the shapes do not fit.
    """
    runs = [_named(name, address) for name, address in addresses.items()]
    for run in runs[1:]:
        if run.d_in != runs[0].d_in:
            remedy = f"d_in is {run.d_in}, and {runs[0].d_in} of {runs[0].init}; compare SAEs of one width"
            raise bad_value(run.init, run.config[NAMED], remedy)
        check_memory(*sorted((run.d_sae, runs[0].d_sae)))
    return [_from_start(run, start) for run in runs] if start else runs


def named_pairs(runs: list[Run]) -> list[Pair]:
    """Each two of them, the one with fewer latents first."""
    return [Pair(*sorted(two, key=lambda run: run.d_sae), across=NAMED) for two in combinations(runs, 2)]


def measured_runs(runs: list[Run], batches: Callable[[], Iterable[Tensor]], tokens: int) -> tuple[list[Run], list[str]]:
    """The runs with L0, FVU and firing rates on raw activations [B, D]; and a line for each whose latents are unknown.

    Runs of this project keep those that training measured.
    """
    measured, missing = [], []
    for run in runs:
        if np.isnan(run.fire_rate).any():
            try:
                run = _measured(run, batches(), tokens)
            except UserError as error:
                missing.append(str(error))
        measured.append(run)
    return measured, missing


def _named(name: str, address: str) -> Run:
    try:
        folder = locate(address)
        if place_of(folder) and (folder / CONFIG).is_file() and (folder / METRICS).is_file():
            run = read_run(folder)
        else:
            has_figures = (folder / METRICS).is_file() and (folder / LATENTS).is_file()  # a snapshot
            figures = read_sae_files(folder) if has_figures else _figures(folder)
            place = {"run_root": folder.parent, "init": name, "l0": np.nan, "seed": 0}
            run = Run(path=folder, **place, parts={}, saved={"config": {}}, **figures)
        for matrix, weights in zip(("W_enc", "W_dec"), matrices(folder), strict=True):
            if not weights.isfinite().all():
                raise UserError(f"{matrix} is NaN or infinite in places; name another SAE")
    except UserError as error:
        raise UserError(f"{name}={address}: {error}") from error
    saved = {**run.saved, "config": {**run.config, NAMED: address}}
    return replace(run, init=name, parts={}, saved=saved)


def _figures(folder: Path) -> dict[str, Any]:
    """The fields of `Run` that the weights give; the others unknown."""
    d_in, d_sae = matrices(folder)[0].shape
    unknown_F = np.full(d_sae, np.nan, dtype=np.float32)
    unknown = dict.fromkeys(("cos_dec_start", "cos_enc_start", "fire_rate", "ablation_fvu"), unknown_F)
    metrics = {"l0": None, "fvu": None, "tokens": None}
    alive_F = np.ones(d_sae, dtype=bool)
    return {"metrics": metrics, "d_in": d_in, "d_sae": d_sae, "alive": alive_F, **unknown}


def _from_start(run: Run, start: str) -> Run:
    try:
        W_enc, W_dec = matrices(start)
    except UserError as error:
        raise UserError(f"start={start}: {error}") from error
    if W_dec.shape != (run.d_sae, run.d_in):
        remedy = f"it has {W_dec.shape[0]} latents of width {W_dec.shape[1]}, {run.init} {run.d_sae} of {run.d_in}"
        raise bad_value("start", start, f"{remedy}; leave it out, or name a start of this shape")
    own_enc, own_dec = matrices(run.path)
    digests = {"W_dec": digest(W_dec), "W_enc": digest(W_enc)}
    saved = {**run.saved, "start": digests, "given": {**(run.saved.get("given") or {}), "start": start, **digests}}
    cos_dec, cos_enc = row_cosines(own_dec, W_dec).numpy(), row_cosines(own_enc.T, W_enc.T).numpy()
    return replace(run, saved=saved, cos_dec_start=cos_dec, cos_enc_start=cos_enc)


def _measured(run: Run, batches: Iterable[Tensor], tokens: int) -> Run:
    sae, pooled = load_finite(run.path), Pooled(run.d_in, run.d_sae)
    for x_BD in batches:
        pooled.update(sae, x_BD)
    found = pooled.result()
    metrics = {**run.metrics, "l0": found.l0, "fvu": found.fvu}
    saved = {**run.saved, "given": {**(run.saved.get("given") or {}), "measured": tokens}}
    latents = {name: getattr(found, name).numpy() for name in ("alive", "fire_rate", "ablation_fvu")}
    return replace(run, saved=saved, metrics=metrics, **latents)
