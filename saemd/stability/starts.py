"""A run's weights at step 0, where they can be had: from its snapshot at 0 tokens, or drawn again from its seed."""

import dataclasses
from functools import lru_cache
from typing import Any, NoReturn

import torch

from saemd.errors import UserError
from saemd.runs import Run, Weights, read_snapshot, read_weights, snapshots
from saemd.sae import ENCODERS, INITS, Sources
from saemd.sae.export import matrices
from saemd.sae.starts.base import SHARED_SEED, digest


class _NotDrawnError(Exception):
    """The start takes more than its generators: a language model, or activations."""


class _Absent:
    """In the place of a source that is not at hand."""

    def __call__(self, *_: Any) -> NoReturn:
        raise _NotDrawnError

    def __getattr__(self, name: str) -> NoReturn:
        raise _NotDrawnError


def start_of(run: Run) -> Weights | None:
    """The run's start; None where it was not kept and takes more than its seed, as the language model's weights.

    Weights that are drawn again count only where they are those of the run, bit by bit: its configuration has their
    digests. Another version of torch may draw others.
    """
    if address := (run.saved.get("given") or {}).get("start"):
        return Weights(*matrices(address))
    if (folder := snapshots(run).get(0)) is not None:
        try:
            return read_weights(read_snapshot(run, folder))
        except UserError as error:
            print(f"{error} (its start is taken as unknown)")
            return None
    config = run.config
    init = tuple(sorted((config.get("init") or {}).items()))
    start = run.saved.get("start") or {}
    if not isinstance(config.get("init_seed"), int) or not {"W_dec", "W_enc"} <= start.keys():
        return None
    try:
        return _drawn(init, run.d_in, run.d_sae, config["init_seed"], start["W_dec"], start["W_enc"])
    except TypeError:  # a value that has no hash: a key of a start of another version
        return None


@lru_cache(maxsize=16)
def _drawn(init: tuple[Any, ...], d_in: int, d_sae: int, seed: int, digest_dec: str, digest_enc: str) -> Weights | None:
    values = dict(init)
    if values.get("name") not in INITS or values.get("encoder") not in ENCODERS:
        return None
    initializer = INITS[values["name"]]
    known = {field.name for field in dataclasses.fields(initializer.Config)}
    if not values.keys() <= known:
        return None
    own: dict[str, Any] = {
        "d_in": d_in,
        "d_sae": d_sae,
        "generator": torch.Generator().manual_seed(seed),
        "shared_generator": torch.Generator().manual_seed(SHARED_SEED),
    }
    sources = Sources(**{field.name: own.get(field.name, _Absent()) for field in dataclasses.fields(Sources)})
    try:
        start = initializer(initializer.Config(**values), sources)
        W_enc = ENCODERS[values["encoder"]](start.W_dec, sources) if start.W_enc is None else start.W_enc
    except _NotDrawnError:
        return None
    if (digest(start.W_dec), digest(W_enc)) != (digest_dec, digest_enc):
        return None
    return Weights(W_enc=W_enc, W_dec=start.W_dec)
