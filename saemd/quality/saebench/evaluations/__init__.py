"""The registry of SAEBench's evaluations, in the order of tables and figures. Imported in both environments."""

from collections.abc import Mapping

from saemd.quality.saebench.evaluation import Evaluation
from saemd.quality.saebench.evaluations.absorption import ABSORPTION
from saemd.quality.saebench.evaluations.autointerp import AUTOINTERP
from saemd.quality.saebench.evaluations.core import CORE
from saemd.quality.saebench.evaluations.ravel import RAVEL
from saemd.quality.saebench.evaluations.sae_probes import SAE_PROBES
from saemd.quality.saebench.evaluations.scr_and_tpp import SCR, TPP
from saemd.quality.saebench.evaluations.sparse_probing import SPARSE_PROBING
from saemd.quality.saebench.evaluations.unlearning import UNLEARNING

EVALUATIONS: Mapping[str, Evaluation] = {
    evaluation.name: evaluation
    for evaluation in (CORE, AUTOINTERP, SPARSE_PROBING, SAE_PROBES, ABSORPTION, RAVEL, UNLEARNING, SCR, TPP)
}
