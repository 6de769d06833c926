"""SAEBench's evaluations as scores of this project: figure 3's eight, and the sae-probes variant of k-sparse probing.

Which keys of SAEBench's JSON make each is in `results.KEYS`, what may be set in `settings`. All are 'larger is better'.
"""

from __future__ import annotations

from collections.abc import Mapping

from saemd.quality.saebench import settings
from saemd.quality.saebench.caller import measurer
from saemd.quality.score import Score

_ALIKE = "2"  # draws are the same for all SAEs
_ENVIRONMENT = "the environment that `make saebench` builds"

SAEBENCH_SCORES: Mapping[str, Score] = {
    score.name: score
    for score in (
        Score(
            name="saebench_core",
            title="Loss Recovered (SAEBench)",
            needs=f"{_ENVIRONMENT}; openwebtext",
            settings=settings.CoreSettings,
            measure=measurer("core"),
        ),
        Score(
            name="saebench_autointerp",
            title="Automated Interpretability",
            needs=f"{_ENVIRONMENT}; the Pile; an OpenAI-compatible endpoint and its key",
            settings=settings.AutoInterpSettings,
            measure=measurer("autointerp"),
        ),
        Score(
            name="saebench_probing",
            title="k-Sparse Probing",
            needs=f"{_ENVIRONMENT}; bias_in_bios, amazon_reviews, github-code, ag_news, europarl; or data=packaged",
            settings=settings.ProbingSettings,
            measure=measurer("sparse_probing"),
            version=_ALIKE,
        ),
        Score(
            name="saebench_sae_probes",
            title="k-Sparse Probing (sae-probes)",
            needs=f"{_ENVIRONMENT}; its 113 data sets ship in it",
            settings=settings.SaeProbesSettings,
            measure=measurer("sae_probes"),
        ),
        Score(
            name="saebench_absorption",
            title="Absorption (inverted)",
            needs=f"{_ENVIRONMENT}; the model's vocabulary alone",
            settings=settings.AbsorptionSettings,
            measure=measurer("absorption"),
            version=_ALIKE,
        ),
        Score(
            name="saebench_ravel",
            title="RAVEL",
            needs=f"{_ENVIRONMENT}; ravel_prompts",
            settings=settings.RavelSettings,
            measure=measurer("ravel"),
        ),
        Score(
            name="saebench_unlearning",
            title="Unlearning",
            needs=f"{_ENVIRONMENT}; gemma-2-2b-it, wikitext, wmdp (its corpus is gated), mmlu",
            settings=settings.UnlearningSettings,
            measure=measurer("unlearning"),
        ),
        Score(
            name="saebench_scr",
            title="Spurious Correlation Removal",
            needs=f"{_ENVIRONMENT}; bias_in_bios, amazon_reviews; or data=packaged",
            settings=settings.ScrSettings,
            measure=measurer("scr"),
            version=_ALIKE,
        ),
        Score(
            name="saebench_tpp",
            title="Targeted Probe Perturbation",
            needs=f"{_ENVIRONMENT}; bias_in_bios, amazon_reviews; or data=packaged",
            settings=settings.TppSettings,
            measure=measurer("tpp"),
            version=_ALIKE,
        ),
    )
}
