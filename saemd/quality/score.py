"""What a score is, what it is measured on and what comes out of it. Every score is entered in `saemd.quality.scores`.

A score measures all SAEs of a sweep in one call, so that what does not depend on the SAE (the language model's passes,
probes, baselines) is done once. It yields each outcome as soon as it has it: the frame writes it down at once, and an
interruption loses at most the SAE in hand.
"""

from __future__ import annotations

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
    """One score of one SAE. A score that failed has a reason and no value: it is never a zero."""

    status: Status
    reason: str | None = None  # one line; None where it is done
    value: float | None = None  # the headline figure: larger is better
    values: dict[str, float | None] = field(default_factory=dict)  # every named figure, `value` among them
    std: float | None = None  # standard deviation of `value` over the score's own draws or pieces
    repetitions: int = 1  # how many of these there were
    spread: str | None = None  # what they are, as "resampled contexts"
    details: dict[str, Any] = field(default_factory=dict)  # plain data that is no single number: histograms, lists
    data: dict[str, Any] = field(default_factory=dict)  # what it was measured on: text, tokens, data sets, their sizes
    versions: dict[str, str] = field(default_factory=dict)  # beyond the bench's own: packages that took part
    seconds: float | None = None  # for this SAE alone, shared work left out

    def __post_init__(self) -> None:
        assert (self.status == "done") == (self.value is not None), "a value exactly where the score is done"
        assert (self.status == "done") == (self.reason is None), "a reason exactly where the score is not done"


def failed(error: BaseException | str) -> Outcome:
    """The outcome of a measurement that broke; the traceback of what is not a user's error goes to stderr."""
    if isinstance(error, BaseException) and not isinstance(error, UserError):
        traceback.print_exception(error, file=sys.stderr)
    name = f"{type(error).__name__}: " if isinstance(error, BaseException) and not isinstance(error, UserError) else ""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return Outcome("failed", reason=name + (" ".join(lines) or "no message"))


def finite(outcome: Outcome) -> Outcome:
    """The outcome, as a failed one where its value is no finite number: nothing could be compared with it."""
    if outcome.value is None or math.isfinite(outcome.value):
        return outcome
    return failed(f"value={outcome.value}: the SAE's reconstruction is not finite; train this run again")


def not_applicable(reason: str, **found: Any) -> Outcome:
    """The outcome where the score makes no sense here; `found` holds what was measured to find that out."""
    return Outcome("not applicable", reason=reason, **found)


@dataclass(frozen=True, eq=False)
class Subject:
    """An SAE to be measured: a finished run, or a published SAE to set beside the runs."""

    init: str  # the start's label; for a published SAE its name
    l0: float  # target
    seed: int | None
    measured_l0: float | None  # on held-out activations, where that is known
    d_in: int
    folder: Path  # its scores go to <folder>/quality/<score>.json
    weights: Path  # the file that its digest stands for
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

    What it raises makes every subject that was not yielded yet a failed one; the other scores go on. `one_by_one` does
    the same for single subjects. `settings` is a dataclass whose defaults are the documented ones: users set
    `<name>.<key>=…`, and unknown keys and wrong types are refused.
    """

    name: str  # in commands and files
    title: str  # in figures and tables
    needs: str  # one line: models, data, environments
    settings: type
    measure: Measure
    version: str = "1"  # raised where its definition changes: then everything is measured again


def one_by_one(subjects: list[Subject], measure: Callable[[Subject], Outcome]) -> Iterator[tuple[Subject, Outcome]]:
    """Each subject with its outcome, measured when it is asked for; one that breaks does not take the others."""
    for subject in subjects:
        try:
            outcome = measure(subject)
        except Exception as error:  # reported: as failed, with its reason, and a traceback where it is a defect
            outcome = failed(error)
        yield subject, outcome


def fingerprint(score: Score, settings: Any, bench_fingerprint: str, weights_digest: str) -> str:
    """Identifies a measurement: another setting, data set, language model, SAE or version is measured anew."""
    about = [score.name, score.version, dataclasses.asdict(settings), bench_fingerprint, weights_digest]
    if files := getattr(settings, "local_files", dict)():  # their names, sizes and times: a path says nothing of them
        about.append(files)
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
