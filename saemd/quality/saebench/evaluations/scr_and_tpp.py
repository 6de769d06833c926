"""What SCR and TPP share: probes before and after zeroing the N latents with the largest effect on them."""

# pyright: reportMissingImports=false
from __future__ import annotations

from dataclasses import dataclass, field

from saemd.quality.saebench.evaluation import Call
from saemd.quality.saebench.settings import SAEBenchSettings, refuse_headline


@dataclass
class ShiftSettings(SAEBenchSettings):
    """The keys of both."""

    OURS = (*SAEBenchSettings.OURS, "headline")

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

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_headline("n_values", self.n_values, self.headline)


def call(run: Call) -> None:
    from sae_bench.evals.scr_and_tpp import main

    run.run_eval(main.run_eval, main.ScrAndTppEvalConfig(**run.config))
