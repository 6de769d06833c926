"""One evaluation of one SAE with one seed."""

import pkgutil
import random
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from sae_bench.sae_bench_utils.testing_utils import validate_eval_output_format_file
from transformer_lens import HookedTransformer

from saemd.errors import UserError
from saemd.quality.saebench.evaluation import Call, Extra
from saemd.quality.saebench.evaluations import EVALUATIONS
from saemd.quality.saebench.worker.adapter import SAEBenchSAE
from saemd.quality.saebench.worker.draws import drawn_alike
from saemd.quality.saebench.worker.fast import fast, fits_on_one_thread
from saemd.quality.saebench.worker.packaged import packaged
from saemd.quality.saebench.worker.residual import residual


def measure(
    job: dict[str, Any], name: str, sae: SAEBenchSAE, model: HookedTransformer | None, seed: int
) -> tuple[Path, Extra]:
    """SAEBench's JSON, valid by its own schema, in ./results; and what it does not say.

    Raises `UserError` where SAEBench gives none, or what it raised itself.
    """
    evaluation = EVALUATIONS[job["evaluation"]]
    config = {**job["config"], "model_name": job["model"]["name"]}
    if "random_seed" in config:
        config["random_seed"] = seed
    for set_seed in (random.seed, np.random.seed, torch.manual_seed):  # Absorption draws unseeded
        set_seed(seed)
    results = Path("results")
    results.mkdir(exist_ok=True)
    pattern = f"{name}_custom_sae_eval_results.json"
    for earlier in results.rglob(pattern):
        earlier.unlink()
    passes = residual(model, job["layer"], Path(job["work"]) / "model") if model else None
    loader = patch.multiple(HookedTransformer, from_pretrained_no_processing=lambda *_, **__: model)
    data = packaged(job["packaged"]) if job.get("packaged") else nullcontext()
    faster = fast(passes) if passes else nullcontext()
    with loader, data, faster, fits_on_one_thread(), drawn_alike(seed), torch.set_grad_enabled(True):
        extra = evaluation.call(Call(job, config, name, sae, model, passes, results)) or {}
    written = sorted(results.rglob(pattern))
    if not written:
        raise UserError("SAEBench ended without a result; its log says why")
    validate_eval_output_format_file(str(written[0]), pkgutil.resolve_name(evaluation.output))
    return written[0], extra
