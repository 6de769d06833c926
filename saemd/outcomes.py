"""What became of the jobs of a sweep, and the lines on stderr about it."""

import sys
import traceback
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from saemd.cli import one_line
from saemd.config import Config
from saemd.errors import UserError
from saemd.files import is_full_disk
from saemd.runs import HeldError, run_dir


@dataclass(frozen=True)
class Outcome:
    """What became of one job. Workers hand it to the process of the sweep."""

    metrics: dict[str, Any] | None  # None: it failed
    note: str  # how long it took, or why it failed
    trace: str = ""  # the traceback, where the failure is a defect of this program
    is_held: bool = False  # it was not tried, as another process trains this run


def failure(error: Exception) -> Outcome:
    is_expected = isinstance(error, UserError) or is_full_disk(error)
    trace = "" if is_expected else "".join(traceback.format_exception(error))
    return Outcome(None, one_line(error), trace, isinstance(error, HeldError))


def show_outcome(config: Config, outcome: Outcome) -> None:
    """One line on a finished or failed job, after the traceback of a defect."""
    if outcome.metrics is not None:
        report(config, outcome.metrics, outcome.note)
        return
    print(outcome.trace, end="", file=sys.stderr)
    show(Text.assemble(("failed", "red"), f" {run_dir(config)}: {outcome.note}"))


def report(config: Config, metrics: dict[str, float], when: str) -> None:
    """One line on a finished run."""
    figures = f"L0 {metrics['l0']:.1f} (target {metrics['target_l0']})  FVU {metrics['fvu']:.3f}"
    show(Text(f"{run_dir(config)}  {figures}  dead {metrics['dead_fraction']:.1%}  {when}"))


def report_failure(config: Config, error: Exception) -> None:
    """One line on a failed run, after the traceback where the failure is a defect of this program."""
    show_outcome(config, failure(error))


def show(line: Text) -> None:
    Console(stderr=True, highlight=False).print(line, soft_wrap=True)
