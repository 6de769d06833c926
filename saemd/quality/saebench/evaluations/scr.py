"""`saebench_scr`: spurious correlation removal, on pairs of classes that are made spuriously correlated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from saemd.errors import bad_value
from saemd.quality.saebench.evaluation import Evaluation, labelled_sets
from saemd.quality.saebench.evaluations.tpp import ShiftSettings, call
from saemd.quality.saebench.results import Keys, details


@dataclass
class ScrSettings(ShiftSettings):
    """`saebench_scr.…`"""

    column1_vals_lookup: dict[str, list[list[str]]] = field(default_factory=lambda: {
        "LabHC/bias_in_bios_class_set1": [
            ["professor", "nurse"], ["architect", "journalist"], ["surgeon", "psychologist"], ["attorney", "teacher"],
        ],
        "canrager/amazon_reviews_mcauley_1and5": [
            ["Books", "CDs_and_Vinyl"], ["Software", "Electronics"], ["Pet_Supplies", "Office_Products"],
            ["Industrial_and_Scientific", "Toys_and_Games"],
        ],
    })  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if missing := [name for name in self.dataset_names if not self.column1_vals_lookup.get(name)]:
            raise bad_value("column1_vals_lookup", self.column1_vals_lookup, f"name pairs of classes of {missing[0]}")
        self.column1_vals_lookup = {name: self.column1_vals_lookup[name] for name in self.dataset_names}

    def config(self) -> dict[str, Any]:
        return {**super().config(), "perform_scr": True}


SCR = Evaluation(
    name="scr",
    score="saebench_scr",
    title="Spurious Correlation Removal",
    needs="bias_in_bios, amazon_reviews; or data=packaged",
    settings=ScrSettings,
    keys=Keys("scr_metrics.scr_metric_threshold_{headline}", "pairs of classes", details),
    output="sae_bench.evals.scr_and_tpp.eval_output:ScrEvalOutput",
    call=call,
    version="2",  # every SAE has the same draws
    large_cache=True,
    packaged=labelled_sets(columns=2),
)
