"""What the entries share: the configuration's schemas, composing and checking it, and errors as one line.

An error a user can mend ends with exit code 2, a failed job with 1, an interruption with 130.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

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
    plain = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    config = OmegaConf.to_object(plain)
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
    """The first lines that carry the message, joined; Hydra and OmegaConf add context lines that do not."""
    noise = ("full_key:", "object_type=", "reference_type=", "Set the environment", "Config search path")
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(noise)]
    key = next((line.removeprefix("full_key:").strip() for line in lines if line.startswith("full_key:")), "")
    return (f"{key}: " if key and key not in " ".join(kept) else "") + " ".join(kept[:4])
