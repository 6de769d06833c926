"""`saebench_probing`: accuracy of linear probes on the k latents that differ most between the classes."""

from dataclasses import dataclass, field

from saemd.quality.saebench.evaluation import Call, Evaluation, labelled_sets
from saemd.quality.saebench.results import Keys, details
from saemd.quality.saebench.settings import HeadlineSettings


@dataclass
class ProbingSettings(HeadlineSettings):
    """`saebench_probing.…`"""

    MEASURED = "k_values"

    k_values: list[int] = field(default_factory=lambda: [1, 2, 5])
    dataset_names: list[str] = field(default_factory=lambda: [
        "LabHC/bias_in_bios_class_set1", "LabHC/bias_in_bios_class_set2", "LabHC/bias_in_bios_class_set3",
        "canrager/amazon_reviews_mcauley_1and5", "canrager/amazon_reviews_mcauley_1and5_sentiment",
        "codeparrot/github-code", "fancyzhx/ag_news", "Helsinki-NLP/europarl",
    ])  # fmt: skip
    probe_train_set_size: int = 4000
    probe_test_set_size: int = 1000
    context_length: int = 128
    sae_batch_size: int = 125


def call(run: Call) -> None:
    from sae_bench.evals.sparse_probing import main

    run.run_eval(main.run_eval, main.SparseProbingEvalConfig(**run.config))


SPARSE_PROBING = Evaluation(
    name="sparse_probing",
    score="saebench_probing",
    title="k-Sparse Probing",
    needs="bias_in_bios, amazon_reviews, github-code, ag_news, europarl; or data=packaged",
    settings=ProbingSettings,
    keys=Keys("sae.sae_top_{headline}_test_accuracy", "data sets", details),
    output="sae_bench.evals.sparse_probing.eval_output:SparseProbingEvalOutput",
    call=call,
    version="2",  # every SAE has the same draws
    large_cache=True,
    packaged=labelled_sets(columns=1, size_key="probe_{}_set_size"),
)
