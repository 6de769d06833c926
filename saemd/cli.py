"""What the entries share: the configuration's schemas, composing and checking it, and errors as one line.

An error a user can mend ends with exit code 2, a failed job with 1, an interruption with 130.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from saemd.config import Config, check
from saemd.corpus.config import CorpusConfig
from saemd.errors import UserError
from saemd.lm.config import LMConfig
from saemd.logging.config import LoggerConfig
from saemd.sae.config import InitConfig, MirrorConfig
from saemd.training.config import RecipeConfig

CONF = Path(__file__).resolve().parent.parent / "conf"
FLAGS = {"-m", "--multirun"}


def register() -> None:
    """Enter the typed schemas that the YAML files in `conf/` build on."""
    store = ConfigStore.instance()
    store.store(name="base_config", node=Config)
    for group, name, node in (
        ("lm", "base_lm", LMConfig),
        ("corpus", "base_corpus", CorpusConfig),
        ("init", "base_uniform", InitConfig),
        ("init", "base_mirror", MirrorConfig),
        ("recipe", "base_recipe", RecipeConfig),
        ("logger", "base_logger", LoggerConfig),
    ):
        store.store(group=group, name=name, node=node)


def typed(composed: DictConfig) -> Config:
    """The checked `Config` of what Hydra composed. Raises `UserError`."""
    config = OmegaConf.to_object(composed)
    assert isinstance(config, Config)
    check(config)
    return config


def compose_all(arguments: list[str]) -> list[Config]:
    """Every job a command line asks for, composed and checked before the first one starts.

    `arguments` as Hydra takes them; comma-separated values are a sweep only behind -m.
    """
    multirun = bool(FLAGS & set(arguments))
    words = [word for word in arguments if not word.startswith("-")]
    choices = []
    for override in OverridesParser.create().parse_overrides(words):
        if isinstance(override.value(), int | float | bool) and not override.key_or_group:
            raise UserError(f"{override.input_line}: write key=value")
        if multirun and override.is_sweep_override():
            key = override.get_key_element()
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            choices.append([override.input_line])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return [typed(compose("config", list(job))) for job in itertools.product(*choices)]


def entry(main: Callable[[list[str]], int]) -> None:
    """Run `main(arguments)` as a program: its return value is the exit code, a user's error is one line and 2."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing its own report
    warnings.filterwarnings("ignore", module="lightning")  # advice on loaders and deprecations that users cannot act on
    register()
    try:
        code = main(sys.argv[1:])
    except (UserError, HydraException, OmegaConfBaseException) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        code = 130
    sys.exit(code)


def one_line(error: BaseException) -> str:
    """The message without its context lines, in the form `key=value: remedy` where Hydra says enough for that."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines)
    if isinstance(error, MissingConfigException) and (found := re.search(r"Could not find '(\w+)/([^']+)'", text)):
        group, value = found.groups()
        known = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
        return f"{group}={value}: known are {', '.join(known)}"
    if isinstance(error, OverrideParseException):
        key, _, value = error.override.partition("=")
        return f"{error.override}: not to be read; a value with = or blanks in it goes in quotes, \"{key}='{value}'\""
    if found := re.search(r"Could not override '([^']+)'", text):
        return f"{found[1]}: there is no such key here; saemd/config.py and the README list the keys"
    if found := re.search(r"Error merging override (\S+)", text):
        reason = str(error.__cause__ or "").split("\n")[0]
        return f"{found[1]}: {reason or 'not a value of this key'}"
    if found := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{found[1]}: several values are a sweep; add -m"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: has no value; give one, {error.full_key}=…"
    return text
