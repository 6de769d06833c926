"""`saebench_unlearning`: hazardous biology forgotten without side effects, by the sister of the runs' model.

The sister is the instruction-tuned model of the same size: SAEBench asks in its prompt format alone.
"""

from dataclasses import dataclass, field
from pathlib import Path

from saemd.errors import bad_value
from saemd.quality.saebench.evaluation import Bench, Call, Evaluation, LMConfig, NotApplicableError
from saemd.quality.saebench.results import Keys
from saemd.quality.saebench.settings import SAEBenchSettings

LMS = ("gemma-2-2b-it", "gemma-2-9b-it")  # the ones whose prompt format SAEBench knows


@dataclass
class UnlearningSettings(SAEBenchSettings):
    """`saebench_unlearning.…`"""

    OURS = (*SAEBenchSettings.OURS, "lm")

    lm: str = "google/gemma-2-2b-it"  # hub id or local folder; its last part must be gemma-2-2b-it or gemma-2-9b-it
    llm_batch_size: int = 4  # SAEBench: an eighth of the others', for contexts of 1,024
    dataset_names: list[str] = field(default_factory=lambda: [
        "wmdp-bio", "high_school_us_history", "college_computer_science", "high_school_geography", "human_aging",
    ])  # fmt: skip
    retain_thresholds: list[float] = field(default_factory=lambda: [0.001, 0.01])
    n_features_list: list[int] = field(default_factory=lambda: [10, 20])
    multipliers: list[int] = field(default_factory=lambda: [25, 50, 100, 200])
    dataset_size: int = 1024
    seq_len: int = 1024

    def folders(self) -> dict[str, str]:
        return super().folders() | {"lm": self.lm}


def lm(bench: Bench, settings: UnlearningSettings) -> LMConfig:
    from saemd.lm.config import LMConfig

    return LMConfig(settings.lm)


def not_applicable(bench: Bench, settings: UnlearningSettings) -> str | None:
    """For SAEs of another model, with how that model answers such questions: measured once."""
    name = settings.lm.rstrip("/").split("/")[-1]
    if name not in LMS:
        raise bad_value("lm", settings.lm, f"SAEBench asks {' or '.join(LMS)} alone")
    base = name.removesuffix("-it")
    if bench.lm_config.name.rstrip("/").split("/")[-1] == base:
        return None
    from saemd.quality.knowledge.questions import packaged_questions

    needed = f"SAEBench asks {name} in its own prompt format, so the SAEs must be of {base}, not of {bench.info.name}"
    return f"{needed}; {packaged_questions(bench).summary}"


def call(run: Call) -> None:
    from sae_bench.evals.unlearning import main

    from saemd.quality.saebench.worker.place import link_copy

    corpus = Path("bio-forget-corpus.jsonl")
    link_copy(corpus, Path("sae_bench/evals/unlearning/data") / corpus)
    try:
        run.run_eval(main.run_eval, main.UnlearningEvalConfig(**run.config))
    except Exception as error:
        if not answers_nothing():
            raise
        reason = "this model answers no question of some of the data sets right in all 24 orders of its choices"
        raise NotApplicableError(reason) from error


def answers_nothing() -> bool:
    """SAEBench keeps the questions that the model answers right; where there is none, it divides by zero."""
    kept = Path("artifacts").glob("unlearning/*/data/question_ids/all/*_correct.csv")
    return any(not path.read_text().strip() for path in kept)


UNLEARNING = Evaluation(
    name="unlearning",
    score="saebench_unlearning",
    title="Unlearning",
    needs="gemma-2-2b-it, wikitext, wmdp (its corpus is gated), mmlu",
    settings=UnlearningSettings,
    keys=Keys("unlearning.unlearning_score"),
    output="sae_bench.evals.unlearning.eval_output:UnlearningEvalOutput",
    call=call,
    not_applicable=not_applicable,
    lm=lm,
)
