"""What the commands share: exit codes, and errors as one line.

An error a user can mend ends with exit code 2, a failed job with 1, an interruption with 130.
"""

import io
import os
import re
import sys
import warnings
from collections.abc import Callable

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from saemd.arguments import unknown_key
from saemd.errors import UserError
from saemd.files import is_full_disk
from saemd.progress import quiet_libraries

# How to install each launcher of `hydra/launcher` that is optional.
EXTRAS = {
    "joblib": "pip install 'saemd[joblib]'",
    "submitit_local": "pip install 'saemd[slurm]'",
    "submitit_slurm": "pip install 'saemd[slurm]'",
    "ray": "pip install 'saemd[ray]'",
}


def entry(main: Callable[[list[str]], int]) -> None:
    """Run `main(arguments)` as a program: its return value is the exit code, a user's error is one line and 2."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing its own report
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # where its encoding lacks a letter, as in a folder's name
            stream.reconfigure(errors="backslashreplace")
    quiet_warnings()
    quiet_libraries()
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except (UserError, HydraException, OmegaConfBaseException) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        code = 2
    except BrokenPipeError:  # who reads this has seen enough, as `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141  # as the shell says it of SIGPIPE
    except OSError as error:
        if not is_full_disk(error):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        code = 130
    sys.exit(code)


def quiet_warnings() -> None:
    """Leave out Lightning's advice on loaders and deprecations, which users cannot act on."""
    warnings.filterwarnings("ignore", module="lightning")


def one_line(error: BaseException) -> str:
    """The message without its context lines, in the form `key=value: remedy` where Hydra says enough for that."""
    return _joined(_message(error))


def _joined(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def _message(error: BaseException) -> str:
    text = _joined(str(error))
    if is_full_disk(error):  # of a library's write, as a logger's
        return f"the disk is full ({text}); make room, and the same command goes on from what is there"
    if (match := re.search(r"Could not (?:find|load) 'hydra/launcher/(\w+)'", text)) and match[1] in EXTRAS:
        return f"hydra/launcher={match[1]}: is not installed; {EXTRAS[match[1]]}"
    if isinstance(error, MissingConfigException) and (match := re.search(r"Could not find '([^']+)/([^'/]+)'", text)):
        group, value = match.groups()
        known = [option for option in error.options or () if not option.startswith("base_")]
        return f"{group}={value}: known are {', '.join(known)}"
    if isinstance(error, OverrideParseException):
        key, equals, value = error.override.partition("=")
        if not equals:
            return f"{error.override}: write key=value"
        return (
            f"{error.override}: cannot be read; put a value with commas, brackets or $ in quotes, \"{key}='{value}'\""
        )
    if match := re.search(r"Could not override '([^']+)'", text):
        return str(unknown_key(match[1], ()))
    if match := re.search(r"Error merging override (\S+)", text):
        reason = str(error.__cause__ or "").split("\n")[0]
        return f"{match[1]}: {reason or 'not a value of this key'}"
    if match := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{match[1]}: several values are a sweep; add -m"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: has no value; give one, {error.full_key}=…"
    return text
