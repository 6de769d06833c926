"""Make one SAE of several seeds' SAEs, of the latents that return, and train it on as a run like any other.

    saemd consensus run_root=runs                    # of each start and L0: of all seeds that share their documents
    saemd consensus run_root=runs seeds=8            # of eight seeds each, in their order; seeds that are left rest
    saemd consensus run_root=runs seeds=8 init=uniform l0=40 tokens=2_000_000
    saemd consensus run_root=runs recipe.freeze_decoder_after=1    # trained on in all weights
    saemd consensus run_root=runs recipe.freeze_encoder_after=0    # in biases and θ alone: agrees as it was made
    saemd consensus run_root=runs recipe.lr=0        # not trained on: only measured
    saemd consensus run_root=runs d_sae=2048         # fewer latents than a seed has: those that return most often

The runs go to <run_root>/init=<start>-consensus/l0=<l0>/…/of=<seeds>/seed=<first seed>/, by default with a quarter of
the seeds' tokens, and with their decoder held. Every other key that is given becomes a folder, as in a sweep
(`of=8/recipe.lr=0.0001`). In how many of the other seeds each latent returned stands in `latents.npz` and `cfg.json`.
Two or more of them are compared like seeds, at the end of this command.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from saemd.arguments import key_values
from saemd.cli import entry
from saemd.composition import changed, restored
from saemd.config import Config
from saemd.errors import UserError, bad_value
from saemd.files import read_json, replacing, write_text
from saemd.remote.urls import CACHE_ROOT, RUN_ROOT, local_folder
from saemd.runs import LATENTS, SAE_CONFIG, SEED_KEYS, Run, fetch_runs, find_runs, flatten, run_dir
from saemd.runs.folders import check_name, names_folder, part
from saemd.sae.starts.saved import SavedConfig
from saemd.stability.consensus_runs import SUFFIX, Made, groups, make

SHARE = 4  # of the seeds' tokens, one in so many trains the consensus
KEYS = ("run_root", "seeds", "init", "l0", "tokens", "shared_threshold", "d_sae")
NUMBERS = ("seeds", "tokens", "d_sae")
GIVEN = {"shared_threshold": float, "tokens": int}  # name the run's folder where they are given


def parse(words: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The command's own keys, and the recipe's. Raises `UserError`."""
    own = [word for word in words if not word.startswith("recipe.")]
    values = {"run_root": "runs", **key_values(own, KEYS)}
    for key in NUMBERS:
        if key in values and not (values[key].replace("_", "").isdecimal() and int(values[key]) > 0):
            raise bad_value(key, values[key], "use a whole number of at least 1")
    return values, dict(word.split("=", 1) for word in words if word.startswith("recipe.") and "=" in word)


def main(words: list[str]) -> int:
    """Exit code 0; 1 where a run failed or cannot be read."""
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    values, recipe = parse(words)
    from saemd.outcomes import report, report_failure
    from saemd.preflight import check_jobs
    from saemd.seeds import train
    from saemd.stability.__main__ import main as compare
    from saemd.stability.comparison import SHARED_THRESHOLD

    run_root = local_folder(RUN_ROOT, values["run_root"])
    threshold = float(values.get("shared_threshold", SHARED_THRESHOLD))
    fetch_runs(run_root)
    runs, broken = find_runs(run_root)
    seeds, d_sae = (int(values[key]) if key in values else None for key in ("seeds", "d_sae"))
    chosen = groups(runs, seeds, values.get("init"), values.get("l0"))
    if not chosen:
        raise bad_value("run_root", values["run_root"], nothing(values))
    made = [make(run_root, group, threshold, d_sae) for group in chosen]
    given = {key: str(kind(values[key])) for key, kind in GIVEN.items() if key in values}
    configs = [config_of(group, sae, given, recipe) for group, sae in zip(chosen, made, strict=True)]
    finished, failed = check_jobs(configs), bool(broken)
    for config, sae, metrics in zip(configs, made, finished, strict=True):
        try:
            outcome: dict[str, Any] = metrics or train(config)
            annotate(run_dir(config), sae)
            report(config, outcome, f"a consensus of {sae.seeds} seeds")
        except UserError as error:
            report_failure(config, error)
            failed = True
    compare([f"run_root={run_root}", f"shared_threshold={threshold}"])
    for line in broken:
        print(f"left out: {line}", file=sys.stderr)
    return int(failed)


def config_of(group: Sequence[Run], made: Made, given: Mapping[str, str], recipe: Mapping[str, str]) -> Config:
    """The configuration of the run that starts from the consensus `made`: the first seed's, but for these keys.

    Those that are `given` name its folder, as those of the recipe do. Raises `UserError` for a value out of range.
    """
    first = group[0]
    config = restored(first.config)
    config.run_root = str(first.run_root)
    config.cache_root = str(local_folder(CACHE_ROOT, config.cache_root))
    config.d_sae = len(made.recurrence)
    config.init = SavedConfig(name="saved", label=f"{first.init}{SUFFIX}", sae=str(made.folder))
    config.tokens = int(given.get("tokens", max(config.batch_size, config.tokens // SHARE)))
    config.recipe.freeze_decoder_after = 0.0  # two consensus SAEs move apart where it is free (experiments/stability)
    config.snapshots = []
    parts = {key: value for key, value in first.parts.items() if key not in SEED_KEYS}
    fewer = {"d_sae": str(config.d_sae)} if config.d_sae < first.d_sae else {}
    config.folder = {**parts, **fewer, **given, "of": str(len(group))}
    config = changed(config, recipe)
    values = flatten(asdict(config))
    config.folder |= {key: part(key, values[key]) for key in recipe if names_folder(key)}
    check_name(config)
    return config


def annotate(run: Path, made: Made) -> None:
    """Add to a finished run in how many of the other seeds each latent returned: to latents.npz and to cfg.json."""
    with np.load(run / LATENTS) as file:
        latents = dict(file)
    if "recurrence" not in latents:
        with replacing(run / LATENTS) as aside:
            np.savez(aside, **latents, recurrence=made.recurrence)
    config = read_json(run / SAE_CONFIG, f"remove {run} and make it again")
    if "recurrence" not in config["metadata"]:
        config["metadata"] |= {"consensus_of_seeds": made.seeds, "recurrence": made.recurrence.tolist()}
        write_text(run / SAE_CONFIG, json.dumps(config, indent=2) + "\n")


def nothing(values: dict[str, str]) -> str:
    """What to do where no group of seeds was found."""
    asked = " ".join(f"{key}={values[key]}" for key in ("seeds", "init", "l0") if key in values)
    return f"no start and L0 has enough finished seeds of the same documents{f' for {asked}' if asked else ''}"


if __name__ == "__main__":
    entry(main)
