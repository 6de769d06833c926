"""From Hydra overrides to checked configurations: one job, or every job of a sweep."""

import dataclasses
import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, OmegaConfBaseException, ValidationError

from saemd.activations.config import SCHEMAS, schema
from saemd.arguments import CONF, folder, overrides, refuse_unread, unknown_key
from saemd.config import Config, check
from saemd.corpus.config import DISJOINT, CorpusConfig, part_of
from saemd.errors import UserError, bad_value
from saemd.lm.config import LMConfig
from saemd.logging.config import LoggerConfig
from saemd.runs import flatten
from saemd.runs.folders import names_folder, part
from saemd.sae.registry import ARCHITECTURES
from saemd.sae.starts import INITS
from saemd.training.config import RecipeConfig

FLAGS = ("-m", "--multirun")


@functools.cache
def register() -> None:
    """Enter the typed schemas that the YAML files in `conf/` build on."""
    store = ConfigStore.instance()
    store.store(name="base_config", node=Config)
    for group, name, node in (
        ("lm", "base_lm", LMConfig),
        ("corpus", "base_corpus", CorpusConfig),
        *(("activations", f"base_{name}", node) for name, node in SCHEMAS.items()),
        *(("sae", f"base_{name}", architecture.Config) for name, architecture in ARCHITECTURES.items()),
        *(("init", f"base_{name}", start.Config) for name, start in INITS.items()),
        ("recipe", "base_recipe", RecipeConfig),
        ("logger", "base_logger", LoggerConfig),
    ):
        store.store(group=group, name=name, node=node)


def typed(composed: DictConfig, choices: Mapping[str, str]) -> Config:
    """The checked `Config` of what Hydra composed, its folders without `~`. Raises `UserError`.

    `choices` has the chosen option of each configuration group.
    """
    refuse_unread(composed)
    config = OmegaConf.to_object(composed)
    assert isinstance(config, Config)
    config.run_root, config.cache_root = folder("run_root", config.run_root), folder("cache_root", config.cache_root)
    config.folder = _folder_parts(config, choices)
    if config.corpus.part is not None:
        raise bad_value("corpus.part", config.corpus.part, f"write documents={config.corpus.part}, which sets it")
    config.corpus.part = part_of(config.documents, config.seed)
    check(config)
    return config


def restored(values: Mapping[str, Any]) -> Config:
    """The configuration that a run's `config.yaml` holds. Keys that came later have their defaults.

    Raises `UserError` for keys that this version does not know.
    """
    known = {
        "lm": LMConfig, "corpus": CorpusConfig, "recipe": RecipeConfig, "logger": LoggerConfig,
        "activations": schema(values["activations"]), "sae": ARCHITECTURES[values["sae"]["name"]].Config,
        "init": INITS[values["init"]["name"]].Config,
    }  # fmt: skip
    try:
        groups = {key: OmegaConf.merge(OmegaConf.structured(node), values[key]) for key, node in known.items()}
    except OmegaConfBaseException as error:
        raise UserError(f"config.yaml: {error.msg} (a run of another version)") from error
    whole: dict[str, Any] = {**values, **{key: OmegaConf.to_object(group) for key, group in groups.items()}}
    return Config(**whole)


def changed(config: Config, values: Mapping[str, str]) -> Config:
    """The configuration with other values of dotted keys, as a command line writes them.

    Raises `UserError` for an unknown key, and for a value that no run could have.
    """
    whole = OmegaConf.structured(config)
    for key, value in values.items():
        try:
            OmegaConf.update(whole, key, yaml.safe_load(value))
        except ConfigAttributeError:
            raise unknown_key(key, [*flatten(dataclasses.asdict(config))]) from None
        except ValidationError as error:
            raise bad_value(key, value, str(error.msg)) from None
    result = OmegaConf.to_object(whole)
    assert isinstance(result, Config)
    check(result)
    return result


def _folder_parts(config: Config, choices: Mapping[str, str]) -> dict[str, str]:
    """The parts of the run's folder as text; null stands for the run's own value, or its option of a group."""
    values = {**flatten(dataclasses.asdict(config)), **choices}
    parts = {}
    for key, value in flatten(config.folder).items():
        if value is None and key not in values:
            raise unknown_key(key, [*values])
        parts[key] = part(key, values[key] if value is None else value)
    return parts


def is_sweep(arguments: Sequence[str]) -> bool:
    return bool({*FLAGS} & {*arguments})


def with_free_folder(words: list[str]) -> list[str]:
    """The words with ++ before `folder`, whose keys are free."""
    return [re.sub(r"^folder(?=[.=])", "++folder", word) for word in words]


def job_overrides(arguments: list[str]) -> list[str]:
    """The overrides of a command line for Hydra, with `folder=…` for the keys that its sweep varies.

    Each job, wherever Hydra composes it, then finds its own folder.
    """
    words = with_free_folder(overrides(arguments, FLAGS))
    if not is_sweep(arguments):
        return words
    words = _with_seeds(words)
    parsed = OverridesParser.create().parse_overrides(words)
    varied = [o.key_or_group for o in parsed if o.is_sweep_override() and len([*o.sweep_iterator()]) > 1]
    named = ",".join(f"{key}:null" for key in sorted({*varied}) if names_folder(key))
    return [f"++folder={{{named}}}", *words] if named else words


def _with_seeds(words: list[str]) -> list[str]:
    """The words with the sweep's seeds in `documents=disjoint`, so that a job knows its part without the others."""
    parsed = OverridesParser.create().parse_overrides(words)
    seeds = [[*o.sweep_string_iterator()] for o in parsed if o.key_or_group == "seed" and o.is_sweep_override()]
    if not seeds or len(seeds[-1]) < 2:
        return words
    named = f"{DISJOINT}:{'-'.join(seeds[-1])}"
    return [
        re.sub(rf"(?<=[=,]){DISJOINT}(?=,|$)", named, word) if o.key_or_group == "documents" else word
        for word, o in zip(words, parsed, strict=True)
    ]


def compose_all(arguments: list[str]) -> list[Config]:
    """Every job a command line asks for, composed and checked before the first one starts.

    `arguments` as Hydra takes them; comma-separated values are a sweep only behind -m. Raises `UserError` for flags and
    keys that nothing would read.
    """
    register()
    multirun = is_sweep(arguments)
    choices, keys = [], set()
    for override in OverridesParser.create().parse_overrides(job_overrides(arguments)):
        if isinstance(override.value(), int | float | bool) and not override.key_or_group:
            raise UserError(f"{override.input_line}: write key=value")
        if override.key_or_group.startswith("hydra."):
            _refuse_unread_by_hydra(override.key_or_group, override.value())
        if override.value() is None and not override.is_delete() and (CONF / override.key_or_group).is_dir():
            options = ", ".join(sorted(path.stem for path in (CONF / override.key_or_group).glob("*.yaml")))
            raise bad_value(override.key_or_group, "null", f"known are {options}; or leave it out")
        keys.add(override.key_or_group)
        if multirun and override.is_sweep_override():
            key = override.get_key_element()
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            choices.append([override.input_line])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        configs = [_composed(list(job)) for job in itertools.product(*choices)]
    for config in configs:
        if "lm.name" in keys and "lm.packages" not in keys and config.lm.packages:  # the packages would be used
            raise bad_value("lm.name", config.lm.name, "another model than the one in packages; add lm=hf")
    return configs


def launcher_of(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """The chosen option of `hydra/launcher`, and its settings, resolved with the values of the first job."""
    parsed = OverridesParser.create().parse_overrides(job_overrides(arguments))
    words = [
        f"{o.get_key_element()}={next(o.sweep_string_iterator())}" if o.is_sweep_override() else str(o.input_line)
        for o in parsed
    ]
    with initialize_config_dir(str(CONF), job_name="saemd", version_base="1.3"):
        composed = compose("config", words, return_hydra_config=True)
    settings = OmegaConf.to_container(composed.hydra.launcher, resolve=True)
    assert isinstance(settings, dict)
    return composed.hydra.runtime.choices["hydra/launcher"], {str(key): value for key, value in settings.items()}


def _composed(words: list[str]) -> Config:
    composed = compose("config", words, return_hydra_config=True)
    choices = composed.hydra.runtime.choices
    with open_dict(composed):
        del composed["hydra"]
    return typed(composed, choices)


def _refuse_unread_by_hydra(key: str, value: object) -> None:
    """With + before it, Hydra takes any key for its own part."""
    part = key.split(".")[1]
    if part == "mode":
        raise bad_value(key, value, "leave it out; -m asks for a sweep")
    if part not in (known := [field.name for field in dataclasses.fields(HydraConf)]):
        raise unknown_key(key, [f"hydra.{name}" for name in known])
