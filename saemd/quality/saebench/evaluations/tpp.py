"""`saebench_tpp`: targeted probe perturbation, on each data set's classes."""

# pyright: reportMissingImports=false
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from saemd.quality.saebench.evaluation import Call, Data, Evaluation
from saemd.quality.saebench.evaluations import scr_and_tpp
from saemd.quality.saebench.results import Keys, details

if TYPE_CHECKING:
    from saemd.quality.bench import Bench


@dataclass
class TppSettings(scr_and_tpp.ShiftSettings):
    """`saebench_tpp.…`"""

    def config(self) -> dict[str, Any]:
        return {**super().config(), "perform_scr": False}


def packaged(bench: Bench, settings: TppSettings) -> Data:
    from saemd.quality.packaged import packaged_sets

    return Data(settings, described={"packaged": packaged_sets(settings, bench.cache_root, columns=1)})


def call(run: Call) -> None:
    """On packaged sets without SCR's pairs, for SAEBench's JSON would name sets that were not measured."""
    if run.job.get("packaged"):
        run = replace(run, config={**run.config, "column1_vals_lookup": {}})
    scr_and_tpp.call(run)


TPP = Evaluation(
    name="tpp",
    score="saebench_tpp",
    title="Targeted Probe Perturbation",
    needs="bias_in_bios, amazon_reviews; or data=packaged",
    settings=TppSettings,
    keys=Keys("tpp_metrics.tpp_threshold_{headline}_total_metric", "data sets", details),
    output="sae_bench.evals.scr_and_tpp.eval_output:TppEvalOutput",
    call=call,
    version="2",  # every SAE has the same draws
    large_cache=True,
    packaged=packaged,
)
