"""Hand trained SAEs to other tools, in the form these tools load.

    saemd export run=runs/init=mirror/l0=40/seed=24 out=mirror-40                # for SAELens, SAEBench
    saemd export run_root=runs out=exported                                      # every finished run
    saemd export run_root=runs out=exported format=dictionary_learning           # ae.pt and config.json

`out` is a new folder; with run_root it keeps the layout init=…/l0=…/…/seed=…. All formats take raw activations and have
decoder rows of unit norm.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from saemd.activations.config import HOOKS, RESIDUAL
from saemd.arguments import key_values
from saemd.cli import entry
from saemd.errors import UserError, bad_value
from saemd.files import DamagedFileError, save_torch, unwritable
from saemd.progress import bar
from saemd.runs import METRICS, WEIGHTS, find, is_among_runs, read_config, read_metrics
from saemd.sae import SAE
from saemd.sae.export import CONFIG, config_text, load_finite
from saemd.sae.export import read_config as read_sae_config

KEYS = ("run", "run_root", "out", "format")


def write_saelens(run: Path, sae: SAE, folder: Path) -> None:
    """`sae_lens.SAE.load_from_disk(folder)`: a run is saved in this form; in older ones cfg.json lacks the version."""
    shutil.copyfile(run / WEIGHTS, folder / WEIGHTS)
    metadata = read_sae_config(run).get("metadata")
    (folder / CONFIG).write_text(config_text(sae, metadata))


def write_dictionary_learning(run: Path, sae: SAE, folder: Path) -> None:
    """For `dictionary_learning.utils.load_dictionary(folder, device)`.

    config.json names things as dictionary_learning's trainer and buffer do; what has no counterpart here is left out.
    """
    if (theirs := sae.dictionary_learning()) is None:
        raise bad_value("format", "dictionary_learning", f"it has no class for {run}'s architecture; use saelens")
    dict_class, weights = theirs
    config = read_config(run)["config"]
    trainer = {
        "dict_class": dict_class,
        "activation_dim": sae.d_in,
        "dict_size": sae.d_sae,
        "lm_name": config["lm"]["name"],
        "layer": config["layer"],
        "submodule_name": f"{HOOKS[config['activations'].get('hook', RESIDUAL)]}_layer_{config['layer']}",
        "target_l0": config["l0"],
        "seed": config["seed"],
    }
    buffer = {"d_submodule": sae.d_in, "io": "out", "ctx_len": config["activations"]["context_length"]}
    save_torch({name: value.detach().contiguous() for name, value in weights.items()}, folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": buffer}, indent=2) + "\n")


Writer = Callable[[Path, SAE, Path], None]  # the run's folder, its SAE, the folder to fill
FORMATS: Mapping[str, Writer] = {
    "saelens": write_saelens,
    "dictionary_learning": write_dictionary_learning,
}


def parse(arguments: list[str]) -> dict[str, str]:
    """`key=value` arguments, complete and without contradiction. Raises `UserError`."""
    values = {"format": "saelens", **key_values(arguments, KEYS)}
    if values["format"] not in FORMATS:
        raise bad_value("format", values["format"], f"known are {', '.join(FORMATS)}")
    if ("run" in values) == ("run_root" in values):
        raise UserError("run=…: give either one run's folder, or run_root=… for all finished runs below it")
    if "out" not in values:
        raise UserError("out=…: name the folder to write")
    return values


def runs_to_export(values: Mapping[str, str]) -> dict[Path, Path]:
    """Each finished run's folder, and where it goes below `out`. Raises `UserError` where there is none."""
    if "run" in values:
        run = Path(values["run"]).expanduser()
        if not (run / METRICS).is_file():
            raise bad_value("run", run, f"no finished run here ({METRICS} is missing); name init=…/l0=…/seed=…")
        return {run: Path()}
    root = Path(values["run_root"]).expanduser()
    if not (runs := find(root)):
        raise bad_value("run_root", root, "no finished run below it; give the run_root that was trained with")
    return {run: run.relative_to(root) for run in runs}


def export(runs: Mapping[Path, Path], out: Path, write: Writer) -> None:
    """Write all runs aside and rename the whole to `out`, so that it is there complete or not at all."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise bad_value("out", out, "there is something here already; name a new folder")
    for run in runs:
        if is_among_runs(out, run):
            raise bad_value("out", out, f"lies among the runs, beside or in {run}; name a folder elsewhere")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as aside,
            bar("exporting", total=len(runs), unit="runs") as progress,
        ):
            whole = Path(aside) / "whole"
            for run, place in runs.items():
                progress.note(str(place))
                (whole / place).mkdir(parents=True)
                try:
                    read_metrics(run)
                    sae = load_finite(run)
                    write(run, sae, whole / place)
                except (DamagedFileError, KeyError, TypeError) as error:
                    raise unreadable(run, error) from error
                for remark in sae.remarks():
                    print(f"{run}: {remark}", file=sys.stderr)
                progress.advance()
            os.replace(whole, out)
    except OSError as error:
        raise unwritable(out, error) from error


def unreadable(run: Path, error: Exception) -> UserError:
    reason = f"{error.path.name} {error.what}" if isinstance(error, DamagedFileError) else f"config.yaml: {error}"
    return bad_value("run", run, f"cannot be read ({reason}); remove it and train it again")


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    try:
        values = parse(arguments)
        runs, out = runs_to_export(values), Path(values["out"]).expanduser()
        export(runs, out, FORMATS[values["format"]])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for place in runs.values():
        print(f"{out / place}  ({values['format']})")
    return 0


if __name__ == "__main__":
    entry(main)
