"""What a score is, what it measures, and its outcome. `saemd.quality.scores` lists every score.

A score measures all SAEs of a sweep in one call, so that what does not depend on the SAE (the language model's passes,
probes, baselines) is done once. It yields each outcome as soon as it has it; the outcome is written at once, so an
interruption loses at most the SAE that is being measured.
"""

import dataclasses
import hashlib
import json
import math
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from saemd.errors import UserError
from saemd.sae import SAE

if TYPE_CHECKING:
    from saemd.quality.bench import Bench

Status = Literal["done", "failed", "not applicable"]


@dataclass(frozen=True)
class Outcome:
    """One score of one SAE. A failed score has a reason and no value, never a zero."""

    status: Status
    reason: str | None = None  # why it is not done, in one line
    value: float | None = None  # the headline figure: larger is better
    values: dict[str, float | None] = field(default_factory=dict)  # every named figure, `value` among them
    std: float | None = None  # standard deviation of `value` over the score's own draws or pieces
    repetitions: int = 1  # the number of these draws or pieces
    spread: str | None = None  # their name, as "resampled contexts"
    details: dict[str, Any] = field(default_factory=dict)  # plain data that is no single number: histograms, lists
    data: dict[str, Any] = field(default_factory=dict)  # what it was measured on: text, tokens, data sets, their sizes
    versions: dict[str, str] = field(default_factory=dict)  # of packages that the bench's versions do not name
    seconds: float | None = None  # for this SAE alone, without shared work

    def __post_init__(self) -> None:
        assert (self.status == "done") == (self.value is not None), "a value exactly where the score is done"
        assert (self.status == "done") == (self.reason is None), "a reason exactly where the score is not done"


def failed(error: BaseException | str) -> Outcome:
    """The outcome of a measurement that failed. An error that no user can mend has its traceback printed to stderr."""
    name = ""
    if isinstance(error, BaseException) and not isinstance(error, UserError):
        traceback.print_exception(error, file=sys.stderr)
        name = f"{type(error).__name__}: "
    return Outcome("failed", reason=name + (" ".join(str(error).split()) or "no message"))


def finite(outcome: Outcome) -> Outcome:
    """The outcome, or a failed one where its value is not a finite number and cannot be compared."""
    if outcome.value is None or math.isfinite(outcome.value):
        return outcome
    return failed(f"value={outcome.value}: the SAE's reconstruction is not finite; train this run again")


def not_applicable(reason: str, **fields: Any) -> Outcome:
    """The outcome where the score makes no sense; `fields` of the outcome hold what was measured before."""
    return Outcome("not applicable", reason=reason, **fields)


@dataclass(frozen=True, eq=False)
class Subject:
    """An SAE to measure: a finished run's, or a published one to compare the runs with."""

    init: str  # the start's label; for a published SAE its name
    l0: float  # target
    seed: int | None
    measured_l0: float | None  # on held-out activations; None where it was not measured
    d_in: int
    folder: Path  # its scores go to <folder>/quality/<score>.json
    weights: Path  # the file of `digest()`
    load: Callable[[], SAE]  # on raw activations, decoder rows of unit norm

    @property
    def name(self) -> str:
        seed = "" if self.seed is None else f" seed={self.seed}"
        return f"init={self.init} l0={self.l0:g}{seed}"

    def digest(self) -> str:
        with open(self.weights, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


Measure = Callable[["Bench", Any, list[Subject]], Iterator[tuple[Subject, Outcome]]]


@dataclass(frozen=True)
class Score:
    """A score. `measure(bench, settings, subjects)` yields each subject once, with its outcome, in any order.

    When it raises, every subject that it has not yielded yet fails; the other scores go on. With `one_by_one` only the
    subject in hand fails. `settings` is a dataclass with the documented defaults: users set `<name>.<key>=…`, and
    unknown keys and wrong types are refused.
    """

    name: str  # in commands and files
    title: str  # in figures and tables
    needs: str  # models, data and environments, in one line
    settings: type
    measure: Measure
    version: str = "1"  # raised when the definition changes: then everything is measured again


def one_by_one(subjects: list[Subject], measure: Callable[[Subject], Outcome]) -> Iterator[tuple[Subject, Outcome]]:
    """Each subject with its outcome, measured one after another. One that fails does not stop the others."""
    for subject in subjects:
        try:
            outcome = measure(subject)
        except Exception as error:  # reported as a failed outcome, with a traceback where it is a defect
            outcome = failed(error)
        yield subject, outcome


def fingerprint(score: Score, settings: Any, bench_fingerprint: str, weights_digest: str) -> str:
    """Identifies a measurement. It changes with the settings, data sets, language model, SAE and version."""
    about = [score.name, score.version, dataclasses.asdict(settings), bench_fingerprint, weights_digest]
    if files := getattr(settings, "local_files", dict)():  # names, sizes and times, which a folder's path does not have
        about.append(files)
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
