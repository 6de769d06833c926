"""The registry of all scores, in the order of tables and figures."""

from __future__ import annotations

from collections.abc import Mapping

from saemd.quality.core import CORE
from saemd.quality.no_judge import NO_JUDGE
from saemd.quality.saebench.scores import SAEBENCH_SCORES
from saemd.quality.score import Score

SCORES: Mapping[str, Score] = {CORE.name: CORE, NO_JUDGE.name: NO_JUDGE, **SAEBENCH_SCORES}
