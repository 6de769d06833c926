"""What one of SAEBench's evaluations owns: settings, inputs, the call of SAEBench, and the keys of its result.

To add one: a file in `evaluations/`, and a line in the registry of that folder. The file is imported in both
environments: by this project, which prepares the inputs and reads the result, and by the worker in SAEBench's
environment, which makes the call. What only one environment has is therefore imported inside a function: `sae_bench`
and `saebench.worker` in `call`, `saemd.lm`, `saemd.quality.packaged` and `saemd.quality.knowledge` in the others.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saemd.errors import UserError
from saemd.quality.saebench.results import Keys
from saemd.quality.saebench.settings import SAEBenchSettings

if TYPE_CHECKING:
    from saemd.lm.config import LMConfig
    from saemd.quality.bench import Bench
else:  # SAEBench's environment cannot import them
    Bench = LMConfig = Any

Extra = dict[str, Any]  # facts about a measurement that SAEBench's JSON does not hold


class NotApplicableError(UserError):
    """The evaluation makes no sense for this model; the message says what was measured."""


@dataclass(frozen=True)
class Data:
    """The data sets that an evaluation reads; neither `folder` nor `described`: those on the hub."""

    settings: SAEBenchSettings  # the user's; RAVEL's are completed with the entities that the data have
    folder: Path | None = None  # holds data sets under their hub names
    described: dict[str, Any] = field(default_factory=dict)  # goes into the job and the record, as `packaged`, `known`


@dataclass(frozen=True)
class Call:
    """One evaluation of one SAE with one seed, on the worker's side.

    Everything happens below the working directory: `artifacts/` keeps what does not depend on the SAE (activations,
    probes, prompts), and copies of data sets are linked there under their hub names.
    """

    job: dict[str, Any]  # as `jobs.build_job` makes it
    config: dict[str, Any]  # SAEBench's configuration
    name: str  # of the SAE, in the names of SAEBench's files
    sae: Any  # a BaseSAE of SAEBench
    model: Any  # a HookedTransformer; None where `Evaluation.hooked` is false
    residual: Any  # `worker.residual.Residual`; None without a model
    results: Path  # SAEBench writes its JSON below it

    @property
    def saes(self) -> list[tuple[str, Any]]:
        """The SAE in the form that SAEBench wants."""
        return [(self.name, self.sae)]

    def run_eval(self, function: Callable[..., Any], config: Any, results: Path | None = None) -> Any:
        """`run_eval` of most of SAEBench's evaluations."""
        return function(config, self.saes, self.job["device"], str(results or self.results), force_rerun=True)


def labelled_sets(columns: int, size_key: str = "{}_set_size") -> Callable[[Bench, Any], Data]:
    """`Evaluation.packaged` for texts with `columns` labels. `size_key`: the settings' key for a split's size."""

    def packaged(bench: Bench, settings: Any) -> Data:
        from saemd.quality.packaged import packaged_sets

        sets = packaged_sets(settings, bench.cache_root, columns=columns, size_key=size_key)
        return Data(settings, described={"packaged": sets})

    return packaged


@dataclass(frozen=True)
class Evaluation:
    """One of SAEBench's evaluations. The hooks with a default are of this project's side."""

    name: str  # SAEBench's; in the names of kept folders
    score: str  # in commands and files
    title: str  # in figures and tables
    needs: str  # one line: data, models, services
    settings: type[SAEBenchSettings]
    keys: Keys
    output: str  # "module:class" of SAEBench's schema for the result
    call: Callable[[Call], Extra | None]  # raises `NotApplicableError` where the model makes the evaluation void
    version: str = "1"  # raised where the definition changes: then everything is measured again
    large_cache: bool = False  # keeps activations at all tokens, tens of GB: removed after each job
    hooked: bool = True  # SAEBench asks for a HookedTransformer; false: `call` loads the model itself
    sae_dtype: str | None = None  # None: `llm_dtype`
    # Why the evaluation is not applicable to the bench's model, or None. Raises `UserError` for settings to be refused.
    not_applicable: Callable[[Bench, Any], str | None] = lambda bench, settings: None
    lm: Callable[[Bench, Any], LMConfig] = lambda bench, settings: bench.lm_config  # the model that is asked
    packaged: Callable[[Bench, Any], Data] | None = None  # the data sets of `data: packaged`; None: there are none
    # More keys of the job, from bench, settings, and the folders of the job and of the model.
    inputs: Callable[[Bench, Any, Path, Path], dict[str, Any]] = lambda bench, settings, work, model: {}
