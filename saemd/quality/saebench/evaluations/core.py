"""`saebench_core`: Loss Recovered and L0. 200 batches of 16 prompts for the loss, 2,000 for the sparsity."""

from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from saemd.errors import UserError, bad_value
from saemd.quality.saebench.evaluation import Call, Evaluation
from saemd.quality.saebench.results import Keys
from saemd.quality.saebench.text import TextSettings, text_input


@dataclass
class CoreSettings(TextSettings):
    """`saebench_core.…`"""

    text: str = "Skylion007/openwebtext"
    batch_size_prompts: int = 16
    n_eval_reconstruction_batches: int = 200
    n_eval_sparsity_variance_batches: int = 2000
    context_size: int = 128
    exclude_special_tokens_from_reconstruction: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.repetitions != 1:
            raise bad_value("repetitions", self.repetitions, "1: core has no draws, every repetition would be the same")

    def config(self) -> dict[str, Any]:
        return {key: value for key, value in super().config().items() if key not in ("random_seed", "llm_batch_size")}


def call(run: Call) -> None:
    from sae_bench.evals.core import main

    failures: list[str] = []

    def note(message: str, *args: Any) -> None:  # SAEBench logs the exceptions that it swallows
        failures.append(message)
        print(message)

    # Without this SAEBench tries a missing data set four times, for a minute.
    once = lambda **_: lambda function: function  # noqa: E731
    config = run.config
    with (
        patch.multiple(main.logger, error=note),
        patch.multiple(main.general_utils, retry_with_exponential_backoff=once),
    ):
        results = main.multiple_evals(
            selected_saes=run.saes, dataset=run.job["text"], output_folder=str(run.results), device=run.job["device"],
            verbose=True, force_rerun=True, dtype=config["llm_dtype"], context_size=config["context_size"],
            eval_batch_size_prompts=config["batch_size_prompts"],
            n_eval_reconstruction_batches=config["n_eval_reconstruction_batches"],
            n_eval_sparsity_variance_batches=config["n_eval_sparsity_variance_batches"],
            exclude_special_tokens_from_reconstruction=config["exclude_special_tokens_from_reconstruction"],
            compute_featurewise_density_statistics=True, compute_featurewise_weight_based_metrics=True,
        )  # fmt: skip
    if failures or not results:
        raise UserError(" ".join(failures[0].split()) if failures else "core: SAEBench gave no result and no reason")


CORE = Evaluation(
    name="core",
    score="saebench_core",
    title="Loss Recovered (SAEBench)",
    needs="openwebtext",
    settings=CoreSettings,
    keys=Keys("model_performance_preservation.ce_loss_score", nan_is_minus_one=True),
    output="sae_bench.evals.core.eval_output:CoreEvalOutput",
    call=call,
    inputs=lambda bench, settings, work, model: text_input(bench, settings, work),
)
