"""`saebench_autointerp`: a judge explains latents, then says from the explanation where they fire.

Any OpenAI-compatible endpoint will do as the judge.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saemd.errors import bad_value
from saemd.quality.saebench.evaluation import Bench, Call, Evaluation, Extra
from saemd.quality.saebench.results import Keys, Result
from saemd.quality.saebench.text import TextSettings, text_input


@dataclass
class AutoInterpSettings(TextSettings):
    """`saebench_autointerp.…`"""

    OURS = (*TextSettings.OURS, "base_url", "judge", "key_variable")

    text: str = "monology/pile-uncopyrighted"
    base_url: str = "https://api.openai.com/v1"
    judge: str = "gpt-4o-mini"
    key_variable: str = "OPENAI_API_KEY"  # environment variable with the endpoint's key; empty: it wants none
    n_latents: int = 1000
    dead_latent_threshold: float = 15
    total_tokens: int = 2_000_000
    llm_context_size: int = 128


def endpoint_key(key_variable: str) -> str:
    """The endpoint's key. Raises `UserError` where the variable is not set."""
    if not key_variable:
        return "none"
    if not os.environ.get(key_variable):
        raise bad_value("key_variable", key_variable, "not set: export the endpoint's key under this name")
    return os.environ[key_variable]


def refuse_missing_key(bench: Bench, settings: AutoInterpSettings) -> None:
    endpoint_key(settings.key_variable)


def inputs(bench: Bench, settings: AutoInterpSettings, work: Path, model: Path) -> dict[str, Any]:
    """The text and the judge. The key itself is not written down."""
    judge = {"base_url": settings.base_url, "name": settings.judge, "key_variable": settings.key_variable}
    return {**text_input(bench, settings, work), "judge": judge}


def call(run: Call) -> Extra:
    from sae_bench.evals.autointerp import main

    from saemd.quality.saebench.worker.explain import raised_in
    from saemd.quality.saebench.worker.judge import judged_by

    judge = run.job["judge"]
    key = endpoint_key(judge["key_variable"])
    config = main.AutoInterpEvalConfig(**run.config, dataset_name=run.job["text"])
    with judged_by(judge["base_url"], judge["name"], judge["key_variable"]) as replies:
        try:
            main.run_eval(config, run.saes, run.job["device"], key, str(run.results), force_rerun=True)
        except AssertionError as error:
            if not raised_in(error, "load_and_tokenize_dataset"):
                raise
            total = config.total_tokens
            raise bad_value(
                "saebench_autointerp.total_tokens", total, "the text has fewer tokens; use fewer"
            ) from error
    replies.refuse_nonsense(judge["name"])
    return {"judge": judge["name"], "replies": replies.predictions, "replies_not_parsed": replies.unparsed,
            "not_parsed": replies.examples}  # fmt: skip


def latents(result: Result, leaf: str) -> list[float]:
    return [latent["score"] for latent in result["eval_result_unstructured"].values()]


AUTOINTERP = Evaluation(
    name="autointerp",
    score="saebench_autointerp",
    title="Automated Interpretability",
    needs="the Pile; an OpenAI-compatible endpoint and its key",
    settings=AutoInterpSettings,
    keys=Keys("autointerp.autointerp_score", "latents", latents),
    output="sae_bench.evals.autointerp.eval_output:AutoInterpEvalOutput",
    call=call,
    not_applicable=refuse_missing_key,
    inputs=inputs,
)
