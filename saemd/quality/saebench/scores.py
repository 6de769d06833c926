"""SAEBench's evaluations as scores of this project: figure 3's eight, and k-sparse probing by sae-probes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from saemd.quality.saebench.caller import measure
from saemd.quality.saebench.evaluation import Evaluation
from saemd.quality.saebench.evaluations import EVALUATIONS
from saemd.quality.score import Score


def score_of(evaluation: Evaluation) -> Score:
    return Score(
        name=evaluation.score,
        title=evaluation.title,
        needs=f"the environment that `make saebench` builds; {evaluation.needs}",
        settings=evaluation.settings,
        measure=partial(measure, evaluation),
        version=evaluation.version,
    )


SAEBENCH_SCORES: Mapping[str, Score] = {score.name: score for score in map(score_of, EVALUATIONS.values())}
