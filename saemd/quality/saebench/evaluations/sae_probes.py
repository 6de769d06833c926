"""`saebench_sae_probes`: k-sparse probing on the 113 binary data sets in the sae-probes package. Nothing is fetched."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saemd.quality.saebench import environment
from saemd.quality.saebench.evaluation import Bench, Call, Evaluation
from saemd.quality.saebench.results import Keys, details
from saemd.quality.saebench.settings import HeadlineSettings


@dataclass
class SaeProbesSettings(HeadlineSettings):
    """`saebench_sae_probes.…`"""

    MEASURED = "ks"

    ks: list[int] = field(default_factory=lambda: [1, 2, 5])
    dataset_names: list[str] = field(default_factory=list)  # empty: all 113
    llm_dtype: str = "float32"  # as sae-probes; bfloat16 is sooner, and what SAEBench's other evaluations use
    reg_type: str = "l1"
    include_llm_baseline: bool = True

    def config(self) -> dict[str, Any]:
        dropped = {"llm_batch_size", "llm_dtype"} | ({"dataset_names"} if not self.dataset_names else set())
        return {name: value for name, value in super().config().items() if name not in dropped}


def inputs(bench: Bench, settings: SaeProbesSettings, work: Path, model: Path) -> dict[str, Any]:
    """The folder of the activations of sae-probes' texts, named after all that they depend on."""
    about = [environment.versions()["sae-probes"], settings.llm_dtype, str(model)]
    digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
    return {"last_tokens": str((bench.folder("saebench") / f"last-tokens-{digest}").absolute())}


def call(run: Call) -> None:
    from sae_bench.evals.sparse_probing_sae_probes import main

    from saemd.quality.saebench.worker.last_tokens import last_tokens, one_bar

    config = main.SparseProbingSaeProbesEvalConfig(**run.config, model_cache_path=run.job["last_tokens"])
    with last_tokens(run.model, run.residual), one_bar(len(config.dataset_names)):
        run.run_eval(main.run_eval, config)


SAE_PROBES = Evaluation(
    name="sae_probes",
    score="saebench_sae_probes",
    title="k-Sparse Probing (sae-probes)",
    needs="its 113 data sets ship in it",
    settings=SaeProbesSettings,
    keys=Keys("sae.sae_top_{headline}_test_accuracy", "data sets", details),
    output="sae_bench.evals.sparse_probing_sae_probes.eval_output:SparseProbingSaeProbesEvalOutput",
    call=call,
    sae_dtype="float32",  # the dtype of sae-probes' activations
    inputs=inputs,
)
