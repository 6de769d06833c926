"""The finished runs below a run root, read: small files at once, weights when they are asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from saemd.errors import UserError, bad_value
from saemd.files import DamagedFileError, named_arrays
from saemd.remote.urls import recorded
from saemd.runs.files import LATENTS, WEIGHTS, read_config, read_metrics
from saemd.runs.folders import find, place_of
from saemd.runs.identity import SEED_KEYS, flatten
from saemd.sae.export import matrices, sae_shape
from saemd.sae.formats import weights_file


@dataclass(frozen=True, eq=False)
class Run:
    """One finished run without its weights, which `read_weights` reads."""

    path: Path
    run_root: Path
    init: str  # the label of its start, as in its folder's name
    l0: float  # target
    parts: dict[str, str]  # the other keys in its folder's name
    seed: int
    d_in: int
    d_sae: int
    saved: dict[str, Any]  # config.yaml: config, fingerprints, digests of the start, versions
    metrics: dict[str, Any]  # metrics.json
    alive: np.ndarray  # bool [F], fired on held-out activations
    cos_dec_start: np.ndarray  # float32 [F], cosine of each decoder row with its own start
    cos_enc_start: np.ndarray  # float32 [F]
    fire_rate: np.ndarray  # float32 [F], share of the held-out tokens on which it was active
    ablation_fvu: np.ndarray  # float32 [F], what is added to the FVU where it is set to 0; NaN: not measured

    @property
    def config(self) -> dict[str, Any]:
        return self.saved["config"]

    @property
    def label(self) -> str:
        """What seeds have in common in tables, as `mirror`, or `mirror layer=6`."""
        return " ".join([self.init, *(f"{key}={self.parts[key]}" for key in self.parts if key not in SEED_KEYS)])

    def value(self, key: str) -> Any:
        """Its value of a key; of a group the option in its folder, or the group's name. None where it has none."""
        if key == "init":
            return self.init
        if (value := flatten(self.config).get(key)) is not None:
            return value
        group = self.config.get(key)
        return self.parts.get(key) or (group.get("name") if isinstance(group, dict) else None)

    @property
    def seeds(self) -> tuple[Any, ...]:
        return (self.seed, *(self.config.get(key) for key in SEED_KEYS))

    @property
    def encoder(self) -> str | None:
        """How the encoder was started from the decoder (tied, gain, dual), where the configuration says."""
        return (self.config.get("init") or {}).get("encoder")

    @property
    def weights(self) -> Path:
        return weights_file(self.path)


@dataclass(frozen=True)
class Weights:
    """An SAE's two dictionaries, float32 on the CPU."""

    W_enc: Tensor  # [D, F]
    W_dec: Tensor  # [F, D]


def find_runs(run_root: Path) -> tuple[list[Run], list[str]]:
    """All finished runs below `run_root`, ordered by init, L0, parts and seed; and a line for each unreadable one."""
    if not run_root.is_dir():
        what = "a file, not a folder" if run_root.exists() else "no such folder"
        raise bad_value(
            "run_root", recorded(str(run_root)), f"{what}; give the run_root that the sweep was trained with"
        )
    runs, broken = [], []
    for folder in find(run_root):
        try:
            runs.append(read_run(folder))
        except UserError as error:
            broken.append(str(error))
    return sorted(runs, key=lambda run: (run.init, run.l0, sorted(run.parts.items()), run.seed)), sorted(broken)


def read_run(path: Path) -> Run:
    """A finished run's small files; of its weights only the shapes are read. `UserError` names what is amiss."""
    place = place_of(path)
    if place is None:
        raise bad_value("run_dir", path, "runs lie in <run_root>/init=<label>/l0=<l0>/…/seed=<seed>")
    try:
        saved = read_config(path)
    except DamagedFileError as error:
        raise _unreadable(path, error) from error
    return Run(path=path, **vars(place), saved=saved, **read_sae_files(path))


def read_sae_files(path: Path) -> dict[str, Any]:
    """The fields of `Run` that the files of its SAE give, in a run's folder or a snapshot's. Raises `UserError`."""
    try:
        metrics = read_metrics(path)
        d_in, d_sae = sae_shape(path)
        latents = _read_latents(path / LATENTS, d_sae)
    except DamagedFileError as error:
        raise _unreadable(path, error) from error
    return {"metrics": metrics, "d_in": d_in, "d_sae": d_sae, **latents}


def _unreadable(path: Path, error: DamagedFileError) -> UserError:
    reason = f"{error.path.name} {error.what}"
    return bad_value("run_dir", path, f"cannot be read ({reason}); remove this folder and train it again")


def read_weights(run: Run) -> Weights:
    """The two dictionaries of a run. Raises `UserError` where they cannot be read, or are not finite."""
    weights = Weights(*matrices(run.path))
    for name, rows_FD in (("W_enc", weights.W_enc.T), ("W_dec", weights.W_dec)):
        if broken := int((~rows_FD.isfinite()).any(dim=1).sum()):
            what = f"{name}: {broken} of {run.d_sae} latents are NaN or infinite"
            remedy = "remove this folder and train it again, with a lower recipe.lr"
            raise bad_value("run_dir", run.path, f"{what}; {remedy}")
    return weights


def _read_latents(path: Path, d_sae: int) -> dict[str, np.ndarray]:
    """The fields of `Run` that are arrays [F]. Raises `DamagedFileError`; earlier versions wrote no `ablation_fvu`."""
    remedy = "train this run again"
    kinds = {"alive": "b", "cos_dec_start": "f", "cos_enc_start": "f", "fire_rate": "f"}
    latents = named_arrays(path, tuple(kinds), remedy, optional=("ablation_fvu",))
    kinds["ablation_fvu"] = "f"
    for name, array in latents.items():
        if array.dtype.kind != kinds[name] or array.shape != (d_sae,):
            what = f"has an array of {array.dtype} {list(array.shape)}, where {WEIGHTS} has {d_sae} latents"
            raise DamagedFileError(path, what, remedy)
    return {"ablation_fvu": np.full(d_sae, np.nan, dtype=np.float32), **latents}
