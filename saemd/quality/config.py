"""The typed configuration of an evaluation: `conf/evaluate.yaml`, with each score's settings under the score's name."""

from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from saemd.arguments import CONF, folder, overrides, refuse_unread
from saemd.errors import UserError, bad_value
from saemd.logging.config import LoggerConfig
from saemd.logging.config import check as check_logger
from saemd.quality.score import Score
from saemd.quality.scores import SCORES


@dataclass
class EvaluateConfig:
    """Top-level keys; the defaults are in `conf/evaluate.yaml`."""

    run_root: str = MISSING  # the sweep: <run_root>/init=<label>/l0=<l0>/seed=<seed>
    cache_root: str = MISSING  # packages, converted models, and results that all SAEs share
    scores: list[str] | None = None  # null: all
    gemma_scope: str | None = None  # measure Gemma Scope's SAEs too: hub, or a folder with a copy of its repository
    device: str = "cpu"  # torch's: cpu, cuda
    threads: int | None = None  # CPU threads of torch; null: all cores
    logger: LoggerConfig = MISSING


def full_config(scores: Mapping[str, Score]) -> Any:
    """`EvaluateConfig` with `<score>: <its settings>` for every score."""
    parts = [(score.name, score.settings, field(default_factory=score.settings)) for score in scores.values()]
    return make_dataclass("FullConfig", parts, bases=(EvaluateConfig,))


FullConfig = full_config(SCORES)


def compose_evaluation(arguments: list[str]) -> Any:
    """The checked `FullConfig` of a command line. Raises `UserError` or Hydra's errors, which `saemd.cli` reports."""
    words = overrides(arguments)
    for word in words:
        if "=" not in word:
            raise UserError(f"{word}: write key=value; saemd.evaluate measures all runs of a run_root by itself")
    store = ConfigStore.instance()
    store.store(name="base_evaluate", node=FullConfig)
    store.store(group="logger", name="base_logger", node=LoggerConfig)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("evaluate", [_list_of_scores(word) for word in words])
    refuse_unread(composed)
    config: Any = OmegaConf.to_object(composed)
    config.run_root, config.cache_root = folder("run_root", config.run_root), folder("cache_root", config.cache_root)
    check_logger(config.logger)
    known = ", ".join(SCORES)
    for name in config.scores or ():
        if name not in SCORES:
            raise bad_value("scores", name, f"known are {known}")
    if config.scores == []:
        raise bad_value("scores", "[]", f"name at least one of {known}")
    if config.threads is not None and config.threads < 1:
        raise bad_value("threads", config.threads, "use at least 1, or null for all cores")
    if config.device not in ("cpu", "cuda"):
        raise bad_value("device", config.device, "known are cpu, cuda")
    return config


def _list_of_scores(word: str) -> str:
    """`scores=a,b` in Hydra's form of a list, `scores=[a,b]`."""
    key, _, value = word.partition("=")
    return word if key != "scores" or value.startswith("[") or value == "null" else f"scores=[{value}]"
