"""Lines on stderr about the jobs of a sweep."""

from __future__ import annotations

import traceback

from rich.console import Console
from rich.text import Text

from saemd.cli import one_line
from saemd.config import Config
from saemd.errors import UserError
from saemd.files import is_full_disk
from saemd.runs import run_dir


def report(config: Config, metrics: dict[str, float], when: str) -> None:
    """One line on a finished run."""
    figures = f"L0 {metrics['l0']:.1f} (target {metrics['target_l0']})  FVU {metrics['fvu']:.3f}"
    show(Text(f"{run_dir(config)}  {figures}  dead {metrics['dead_fraction']:.1%}  {when}"))


def report_failure(config: Config, error: Exception) -> None:
    """One line on a failed run, behind the traceback where the failure is a defect of this program."""
    if not isinstance(error, UserError) and not is_full_disk(error):
        traceback.print_exception(error)
    show(Text.assemble(("failed", "red"), f" {run_dir(config)}: {one_line(error)}"))


def show(line: Text) -> None:
    Console(stderr=True, highlight=False).print(line, soft_wrap=True)
