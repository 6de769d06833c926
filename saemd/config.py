"""The typed configuration: what `conf/` may say. OmegaConf rejects unknown keys and wrong types, `check` the rest.

Each room owns its part (`LMConfig` in `saemd.lm.config` and so on); this file puts them together and checks them
against each other. A key that nothing reads is a defect.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from omegaconf import MISSING

from saemd.activations.config import HarvestConfig, check_activations
from saemd.corpus.config import CorpusConfig, part_of
from saemd.errors import bad_value
from saemd.lm.config import LMConfig
from saemd.logging.config import LoggerConfig
from saemd.logging.config import check as check_logger
from saemd.sae.base import SAEConfig
from saemd.sae.registry import check_architecture
from saemd.sae.starts import InitConfig, check_init
from saemd.training.config import RecipeConfig, check_recipe

ACCELERATORS = ("auto", "cpu", "gpu", "cuda")
SEEDS = 2**32
LARGEST = 2**63 - 1  # of a number in the configuration


@dataclass
class Config:
    """Top-level keys; the defaults are in `conf/config.yaml`."""

    lm: LMConfig = MISSING
    corpus: CorpusConfig = MISSING
    activations: HarvestConfig = MISSING
    sae: SAEConfig = MISSING
    init: InitConfig = MISSING
    recipe: RecipeConfig = MISSING
    logger: LoggerConfig = MISSING
    layer: int = MISSING  # decoder layer whose output (residual stream) is read, from 0
    d_sae: int | None = None  # latents; null: twice the MLP's hidden width, 2m
    l0: int = MISSING  # target L0
    seed: int = MISSING  # sets init_seed and data_seed
    init_seed: int = MISSING  # draws the starting weights
    data_seed: int = MISSING  # orders the activations
    # What a seed trains on: same (all documents), disjoint (in a sweep over seed, a part for each), or a part, as 0/2.
    # disjoint becomes disjoint:24-42, which names the sweep's seeds. Held-out documents are the same for all parts.
    documents: str = "same"
    tokens: int = MISSING  # activations to train on
    batch_size: int = 2048  # activations per step; a recipe may have its own
    run_root: str = MISSING  # runs go to <run_root>/init=<label>/l0=<l0>/…/seed=<seed>
    # Further parts of the run's folder, between l0 and seed: a name, or null for the run's own value of that key. The
    # keys that a sweep varies are added by themselves.
    folder: dict[str, Any] = field(default_factory=dict)
    cache_root: str = MISSING  # packages, converted models, tokenised text, activations
    # Jobs of a sweep that are trained as one stack; "auto": on a GPU as many as fit, on a CPU 1, which is faster there.
    together: int | str = 1
    accelerator: str = "auto"  # Lightning's, of ACCELERATORS
    # Devices, a process each, that divide every batch of one run. `batch_size` is that of all; results are equal to
    # rounding. Under torchrun or srun: the number of processes that they start.
    devices: int = 1
    threads: int | None = None  # CPU threads of torch; null: all cores, which the devices of a run divide
    checkpoint_minutes: float = 5.0  # at most this much work is lost when a run is killed
    # Token counts, ascending: the SAE at the step nearest to each is kept in the run's folder, with its held-out
    # figures. 0 keeps the start.
    snapshots: list[int] = field(default_factory=list)


def width(config: Config, mlp_width: int) -> int:
    """The number of latents, for an MLP of this hidden width. Raises `UserError` where a target L0 exceeds it."""
    d_sae = config.d_sae or 2 * mlp_width
    if config.l0 > d_sae:
        raise bad_value("l0", config.l0, f"the target L0 cannot exceed d_sae={d_sae}")
    if config.recipe.l0_start * config.l0 > d_sae:
        remedy = (
            f"the first step's target, {config.recipe.l0_start * config.l0:g}, cannot exceed d_sae={d_sae}; lower it"
        )
        raise bad_value("recipe.l0_start", config.recipe.l0_start, remedy)
    return d_sae


def snapshot_steps(config: Config) -> dict[int, int]:
    """The tokens in `snapshots` by the step, from 1 to the last (0: before the first), that is nearest to them."""
    size, steps = config.batch_size, config.tokens // config.batch_size
    return {min(max((2 * n + size) // (2 * size), int(n > 0)), steps): n for n in config.snapshots}


def check(config: Config) -> None:
    """Refuse values that no run could use, and keys that contradict each other. Raises `UserError`."""
    for key in ("seed", "init_seed", "data_seed"):
        if not 0 <= getattr(config, key) < SEEDS:  # torch's generator keeps 32 bits: two seeds could draw one start
            raise bad_value(key, getattr(config, key), f"use a seed from 0 to {SEEDS - 1}")
    _check_sizes(dataclasses.asdict(config))
    if config.corpus.part != (part := part_of(config.documents, config.seed)):
        raise bad_value("corpus.part", config.corpus.part, f"documents={config.documents} makes it {part or 'null'}")
    if config.l0 <= 0:
        raise bad_value("l0", config.l0, "the target L0 must be at least 1")
    if config.d_sae is not None and config.d_sae < 1:
        raise bad_value("d_sae", config.d_sae, "use at least 1, or null for twice the MLP's hidden width")
    if config.d_sae is not None:
        width(config, 0)
    if config.batch_size <= 0:
        raise bad_value("batch_size", config.batch_size, "use at least 1 (the paper: 2048)")
    if config.tokens < config.batch_size:
        raise bad_value("tokens", config.tokens, f"use at least one batch, batch_size={config.batch_size}")
    _check_snapshots(config)
    if config.layer < 0:
        raise bad_value("layer", config.layer, "layers count from 0")
    if config.threads is not None and config.threads < 1:
        raise bad_value("threads", config.threads, "use at least 1, or null for all cores")
    if not 0 < config.checkpoint_minutes < math.inf:
        raise bad_value("checkpoint_minutes", config.checkpoint_minutes, "use a positive number of minutes")
    if config.together != "auto" and (isinstance(config.together, str) or config.together < 1):
        raise bad_value("together", config.together, "use at least 1, or auto")
    if config.accelerator not in ACCELERATORS:
        raise bad_value("accelerator", config.accelerator, f"known are {', '.join(ACCELERATORS)}")
    check_activations(config.activations)
    _check_devices(config)
    if config.accelerator == "cpu" and getattr(config.activations, "device", "cpu") == "gpu":
        raise bad_value(
            "activations.device", "gpu", "accelerator=cpu trains on the CPU; use cpu, or another accelerator"
        )
    check_architecture(config.sae)
    check_init(config.init)
    check_logger(config.logger)
    check_recipe(config.recipe)


def _check_devices(config: Config) -> None:
    if config.devices < 1:
        raise bad_value("devices", config.devices, "use at least 1")
    if config.batch_size % config.devices:
        raise bad_value("batch_size", config.batch_size, f"use a multiple of devices={config.devices}, which divide it")
    if config.devices > 1 and (name := getattr(config.activations, "name", "cache")) != "cache":
        remedy = "each device would run the language model on all of the text; use activations=cache, or devices=1"
        raise bad_value("activations.name", name, remedy)


def _check_sizes(values: dict[str, Any], prefix: str = "") -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            _check_sizes(value, f"{prefix}{key}.")
        elif isinstance(value, int) and abs(value) > LARGEST:
            raise bad_value(f"{prefix}{key}", str(value)[:30], f"too large a number; use at most {LARGEST:,}")


def _check_snapshots(config: Config) -> None:
    asked = config.snapshots
    if not isinstance(asked, list) or any(type(n) is not int for n in asked):  # an interpolation may give anything
        raise bad_value("snapshots", asked, "use a list of token counts, as [0,1_000_000]")
    if any(n > config.tokens for n in asked):
        raise bad_value("snapshots", asked, f"training ends at tokens={config.tokens}; use at most that many")
    if any(n < 0 for n in asked) or any(a >= b for a, b in pairwise(asked)):
        raise bad_value("snapshots", asked, "use token counts from 0 on, each above the one before")
    if len(snapshot_steps(config)) < len(asked):
        raise bad_value("snapshots", asked, f"two of them fall on one step of batch_size={config.batch_size} tokens")
