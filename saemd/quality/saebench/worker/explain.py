"""What went wrong in SAEBench, as one line for a user."""

import sys
import traceback
from typing import Any

from saemd.errors import UserError

MISSING = (
    *("DatasetNotFoundError", "OfflineModeIsEnabled", "ConnectionError", "FileNotFoundError", "HFValidationError"),
    *("LocalEntryNotFoundError", "ConnectTimeout", "ConnectError", "RepositoryNotFoundError", "GatedRepoError"),
)


def explained(error: Exception, job: dict[str, Any]) -> str:
    """SAEBench's own assertions have no text: then the line of its code is named. The traceback is printed."""
    traceback.print_exception(error, file=sys.stdout)
    message = " ".join(str(error).split())[:300]
    if isinstance(error, UserError):
        return message
    frames = _frames(error)
    where = ""
    if frames:
        file = frames[-1].filename.split("site-packages/")[-1]
        where = f" ({file}:{frames[-1].lineno}: {frames[-1].line})"
    error_type = type(error).__name__
    if error_type in MISSING:
        return f"a data set cannot be had: {message}{where}; lay a copy under <data>/<its hub name> and set data"
    if isinstance(error, KeyError) and raised_in(error, "filter_dataset"):  # SAEBench has left this class out before
        sizes = " and ".join(f"{name}={job['config'][name]}" for name in job["config"] if name.endswith("_set_size"))
        return f"a data set is too small: class {message} has fewer texts than {sizes} ask for; use fewer"
    if isinstance(error, AssertionError) or "larger sample than population" in message:
        return f"a data set is too small for these settings, or lacks a class: {message or 'SAEBench asserts'}{where}"
    return f"{error_type}: {message or 'no message'}{where}"


def raised_in(error: Exception, function: str) -> bool:
    """Whether SAEBench's code raised it in the function of this name."""
    frames = _frames(error)
    return bool(frames) and frames[-1].name == function


def _frames(error: Exception) -> list[traceback.FrameSummary]:
    return [frame for frame in traceback.extract_tb(error.__traceback__) if "sae_bench" in frame.filename]
