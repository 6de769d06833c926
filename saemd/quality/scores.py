"""The registry of all scores, in the order of tables and figures."""

from collections.abc import Mapping
from functools import partial

from saemd.quality.core import CORE
from saemd.quality.no_judge import NO_JUDGE
from saemd.quality.saebench.caller import measure
from saemd.quality.saebench.evaluations import EVALUATIONS
from saemd.quality.score import Score

# Figure 3's eight, and k-sparse probing by sae-probes.
SAEBENCH_SCORES: Mapping[str, Score] = {
    evaluation.score: Score(
        name=evaluation.score,
        title=evaluation.title,
        needs=f"the environment that `make saebench` builds; {evaluation.needs}",
        settings=evaluation.settings,
        measure=partial(measure, evaluation),
        version=evaluation.version,
    )
    for evaluation in EVALUATIONS.values()
}
SCORES: Mapping[str, Score] = {CORE.name: CORE, NO_JUDGE.name: NO_JUDGE, **SAEBENCH_SCORES}
