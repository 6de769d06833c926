"""`saebench_scr`, spurious correlation removal, and `saebench_tpp`, targeted probe perturbation.

SCR works on pairs of classes that are made spuriously correlated. Both train probes, and measure them before and after
zeroing the N latents with the largest effect on them.
"""

from dataclasses import dataclass, field
from typing import Any

from saemd.errors import bad_value
from saemd.quality.saebench.evaluation import Call, Evaluation, labelled_sets
from saemd.quality.saebench.results import Keys, details
from saemd.quality.saebench.settings import HeadlineSettings


@dataclass
class ShiftSettings(HeadlineSettings):
    """The keys of SCR and TPP."""

    MEASURED = "n_values"

    headline: int = 20  # the N whose metric is the score
    n_values: list[int] = field(default_factory=lambda: [2, 5, 10, 20, 50, 100, 500])
    dataset_names: list[str] = field(
        default_factory=lambda: ["LabHC/bias_in_bios_class_set1", "canrager/amazon_reviews_mcauley_1and5"]
    )
    train_set_size: int = 4000
    test_set_size: int = 1000
    context_length: int = 128
    probe_train_batch_size: int = 16
    probe_epochs: int = 20
    probe_lr: float = 1e-3
    probe_l1_penalty: float = 1e-3
    sae_batch_size: int = 125


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


@dataclass
class TppSettings(ShiftSettings):
    """`saebench_tpp.…`"""

    def config(self) -> dict[str, Any]:
        return {**super().config(), "perform_scr": False}


def call(run: Call) -> None:
    from sae_bench.evals.scr_and_tpp import main

    config = main.ScrAndTppEvalConfig(**run.config)
    if run.job.get("packaged") and not config.perform_scr:
        config.column1_vals_lookup = {}  # SCR's pairs: TPP's JSON would name data sets that were not measured
    run.run_eval(main.run_eval, config)


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
    packaged=labelled_sets(columns=1),
)
