"""The finished runs below a run root, and which of them are siblings: the same in everything but the seed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from torch import Tensor

from saemd.errors import UserError, bad_value
from saemd.files import DamagedFileError, read_npz
from saemd.runs import LATENTS, WEIGHTS, read_config, read_metrics
from saemd.sae.export import sae_shape

FOLDER = re.compile(r"init=(?P<init>[^/]+)/l0=(?P<l0>[^/]+)/seed=(?P<seed>-?\d+)$")
FINISHED = "init=*/l0=*/seed=*/metrics.json"  # written last, so only finished runs have it
SEED_KEYS = ("seed", "init_seed", "data_seed")


@dataclass(frozen=True, eq=False)
class Run:
    """One finished run: all but its weights, which `read_weights` gives."""

    path: Path
    init: str  # the label of its initialisation, as in its folder's name
    l0: float  # target
    seed: int
    d_in: int
    d_sae: int
    saved: dict[str, Any]  # config.yaml: config, fingerprints, start hashes, versions
    metrics: dict[str, Any]  # metrics.json
    alive: np.ndarray  # bool [F], fired on held-out activations
    cos_dec_start: np.ndarray  # float32 [F], cosine of each decoder row with its own start
    cos_enc_start: np.ndarray  # float32 [F]

    @property
    def config(self) -> dict[str, Any]:
        return self.saved["config"]

    @property
    def encoder(self) -> str | None:
        """How the encoder was started from the decoder (tied, gain, dual), where the configuration says."""
        return (self.config.get("init") or {}).get("encoder")

    @property
    def weights(self) -> Path:
        return self.path / WEIGHTS


@dataclass(frozen=True, eq=False)
class Pair:
    """Two siblings, a's seed below b's."""

    a: Run
    b: Run

    @property
    def name(self) -> str:
        return f"init={self.a.init}_l0={self.a.l0:g}_seeds={self.a.seed}-{self.b.seed}"

    def same_start(self, weight: str) -> bool | None:
        """Do both runs start from bit-equal `weight` (W_dec or W_enc)? None where a run did not note it."""
        starts = [(run.saved.get("start") or {}).get(weight) for run in (self.a, self.b)]
        return None if None in starts else starts[0] == starts[1]


@dataclass(frozen=True)
class Weights:
    """An SAE's two dictionaries, float32 on the CPU."""

    W_enc: Tensor  # [D, F]
    W_dec: Tensor  # [F, D]


def read_run(path: Path) -> Run:
    """A finished run's small files; of its weights only the shapes are read. `UserError` names what is amiss."""
    place = FOLDER.search(path.resolve().as_posix())
    if place is None:
        raise bad_value("run_dir", path, "runs lie in <run_root>/init=<label>/l0=<l0>/seed=<seed>")
    try:
        saved, metrics = read_config(path), read_metrics(path)
        d_in, d_sae = sae_shape(path)
        alive, cos_dec, cos_enc = _read_latents(path / LATENTS, d_sae)
    except DamagedFileError as error:
        reason = f"{error.path.name} {error.what}"
        raise bad_value("run_dir", path, f"cannot be read ({reason}); remove this folder and train it again") from error
    return Run(
        path=path,
        init=place["init"],
        l0=float(place["l0"]),
        seed=int(place["seed"]),
        d_in=d_in,
        d_sae=d_sae,
        saved=saved,
        metrics=metrics,
        alive=alive,
        cos_dec_start=cos_dec,
        cos_enc_start=cos_enc,
    )


def _read_latents(path: Path, d_sae: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`alive` (bool [F]), `cos_dec_start` and `cos_enc_start` (float32 [F]). Raises `DamagedFileError`."""
    remedy = "train this run again"
    alive, cos_dec, cos_enc = read_npz(path, ("alive", "cos_dec_start", "cos_enc_start"), remedy)
    for array, kind in ((alive, "b"), (cos_dec, "f"), (cos_enc, "f")):
        if array.dtype.kind != kind or array.shape != (d_sae,):
            what = f"has an array of {array.dtype} {list(array.shape)}, where {WEIGHTS} has {d_sae} latents"
            raise DamagedFileError(path, what, remedy)
    return alive, cos_dec, cos_enc


def read_weights(run: Run) -> Weights:
    """The two dictionaries of a run. Raises `UserError` where they cannot be compared, as they are not finite."""
    with safe_open(run.weights, framework="pt") as file:
        weights = Weights(W_enc=file.get_tensor("W_enc").float(), W_dec=file.get_tensor("W_dec").float())
    for name, rows_FD in (("W_enc", weights.W_enc.T), ("W_dec", weights.W_dec)):
        if broken := int((~rows_FD.isfinite()).any(dim=1).sum()):
            what = f"{name}: {broken} of {run.d_sae} latents are NaN or infinite"
            remedy = "remove this folder and train it again, with a lower recipe.lr"
            raise bad_value("run_dir", run.path, f"{what}; {remedy}")
    return weights


def find_runs(run_root: Path) -> tuple[list[Run], list[str]]:
    """All finished runs below `run_root`, ordered by init, L0 and seed; and one line for each that cannot be read."""
    if not run_root.is_dir():
        what = "a file, not a folder" if run_root.exists() else "no such folder"
        raise bad_value("run_root", run_root, f"{what}; give the run_root that the sweep was trained with")
    runs, broken = [], []
    for metrics in run_root.glob(FINISHED):
        try:
            runs.append(read_run(metrics.parent))
        except UserError as error:
            broken.append(str(error))
    return sorted(runs, key=lambda run: (run.init, run.l0, run.seed)), sorted(broken)


def siblings(runs: list[Run]) -> tuple[list[Pair], list[str]]:
    """Pairs of seeds of equal init, L0 and `sibling_fingerprint`; and a line on seeds whose configurations differ."""
    cells: dict[tuple[str, float], dict[str, list[Run]]] = {}
    for run in runs:
        cells.setdefault((run.init, run.l0), {}).setdefault(run.saved["sibling_fingerprint"], []).append(run)
    pairs, remarks = [], []
    for (init, l0), kinds in cells.items():
        first, *others = kinds.values()
        for kind in (first, *others):
            pairs += [Pair(a, b) for a, b in combinations(kind, 2)]
        remarks += [f"init={init} l0={l0:g}: {_difference(first, other)}" for other in others]
    return pairs, remarks


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Nested keys joined with dots."""
    if not isinstance(config, dict):
        return {prefix: config}
    parts = (flatten(value, f"{prefix}.{name}".strip(".")) for name, value in config.items())
    return {key: value for part in parts for key, value in part.items()}


def _difference(first: list[Run], other: list[Run]) -> str:
    one, two = flatten(first[0].config), flatten(other[0].config)
    keys = [key for key in {**one, **two} if key not in SEED_KEYS and one.get(key) != two.get(key)]
    shown = ", ".join(f"{key}={one.get(key)} and {two.get(key)}" for key in keys[:3]) or "the cache or the start"
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    seeds = [",".join(str(run.seed) for run in kind) for kind in (first, other)]
    return f"seed {seeds[0]} and seed {seeds[1]} are not compared, they differ in {shown}{more}"
