"""The worker's job as plain data, from the bench, the settings and the SAEs' files."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from saemd.errors import bad_value
from saemd.lm.files import resolve
from saemd.lm.pickled import with_safetensors
from saemd.quality.bench import Bench
from saemd.quality.saebench.evaluation import Data, Evaluation
from saemd.quality.saebench.evaluations import EVALUATIONS
from saemd.quality.saebench.settings import PACKAGED, SAEBenchSettings, listing

DRAWS = "alike"  # changed where other texts are drawn: what was kept of an evaluation is then not used


def build_job(
    evaluation: Evaluation, bench: Bench, settings: SAEBenchSettings, weights: dict[str, Path]
) -> dict[str, Any]:
    """Plain data; `weights` are the SAEs' files by name. Raises `UserError` where the settings cannot be followed."""
    data = _data(evaluation, bench, settings)
    settings = data.settings
    lm = evaluation.lm(bench, settings)
    model = with_safetensors(lm, bench.cache_root, resolve(lm, bench.cache_root))
    work = bench.folder("saebench") / f"{evaluation.name}-{_digest(evaluation, data, model)}"
    work.mkdir(parents=True, exist_ok=True)
    return {
        "evaluation": evaluation.name,
        "model": {"folder": str(model.absolute()), "name": lm.name.rstrip("/").split("/")[-1]},
        "layer": bench.layer,
        "device": bench.device,
        "threads": torch.get_num_threads(),
        "llm_dtype": settings.llm_dtype,
        "seeds": [settings.random_seed + i for i in range(settings.repetitions)],
        "config": settings.config(),
        "data": str(data.folder) if data.folder else None,
        "work": str(work.absolute()),
        "saes": [{"name": name, "weights": str(path.absolute())} for name, path in weights.items()],
        **data.described,
        **evaluation.inputs(bench, settings, work, model),
    }


def _digest(evaluation: Evaluation, data: Data, model: Path) -> str:
    """Names the folder of everything that does not depend on the SAE."""
    settings, packaged = data.settings, data.described.get("packaged")
    config = {**settings.config(), "llm_dtype": settings.llm_dtype, "random_seed": None}
    about = [evaluation.name, config, DRAWS, *settings.kept_by(), str(model)]
    about += [listing(data.folder) if data.folder else [], packaged]
    about += [files for key, files in settings.local_files().items() if key != "data"]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]


def _data(evaluation: Evaluation, bench: Bench, settings: SAEBenchSettings) -> Data:
    if settings.data == "":
        return Data(settings)
    if settings.data == PACKAGED:
        if evaluation.packaged is None:
            names = ", ".join(other.score for other in EVALUATIONS.values() if other.packaged)
            raise bad_value("data", PACKAGED, f"packaged data are for {names}; leave it out here")
        return evaluation.packaged(bench, settings)
    folder = Path(settings.data).expanduser().absolute()
    if not folder.is_dir():
        remedy = "neither packaged nor a folder with copies of hub data sets, as <data>/LabHC/bias_in_bios"
        raise bad_value("data", settings.data, remedy)
    return Data(settings, folder)
