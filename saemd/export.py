"""Hand trained SAEs to other tools, in the form these tools load.

    saemd export run=runs/init=mirror/l0=40/seed=24 out=mirror-40                # for SAELens, SAEBench
    saemd export run_root=runs out=exported                                      # every finished run
    saemd export run_root=runs out=exported format=dictionary_learning           # ae.pt and config.json
    saemd export run_root=runs out=exported format=sparsify                      # of TopK SAEs
    saemd export run_root=runs out=card format=hub repo=me/saes                  # with a model card, and uploaded

`out` is a new folder; with run_root it keeps the layout init=…/l0=…/…/seed=…. All formats take raw activations and have
decoder rows of unit norm. Without repo=… format=hub writes the folder and uploads nothing.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from saemd.arguments import key_values
from saemd.cli import entry, one_line
from saemd.errors import UserError, bad_value
from saemd.exports import FORMATS, Writer, check_repository, upload, write_card
from saemd.files import DamagedFileError, unwritable
from saemd.progress import bar
from saemd.remote.urls import RUN_ROOT, is_url, local_folder, masked
from saemd.runs import METRICS, fetch_runs, find, is_among_runs, read_metrics
from saemd.runs.folders import place_of
from saemd.sae import load_finite

KEYS = ("run", "run_root", "out", "format", "repo")


def parse(arguments: list[str]) -> dict[str, str]:
    """`key=value` arguments, complete and without contradiction. Raises `UserError`."""
    values = {"format": "saelens", **key_values(arguments, KEYS)}
    if values["format"] not in FORMATS:
        raise bad_value("format", values["format"], f"known are {', '.join(FORMATS)}")
    if ("run" in values) == ("run_root" in values):
        raise UserError("run=…: give either one run's folder, or run_root=… for all finished runs below it")
    if "out" not in values:
        raise UserError("out=…: name the folder to write")
    if "repo" in values and values["format"] != "hub":
        raise bad_value("repo", values["repo"], "only format=hub is uploaded; add it, or leave repo out")
    if is_url(values["out"]):
        raise bad_value("out", masked(values["out"]), "name a folder of this machine, and copy it from there")
    return values


def runs_to_export(values: Mapping[str, str]) -> dict[Path, Path]:
    """Each finished run's folder, and where it goes below `out`. Raises `UserError` where there is none."""
    if "run" in values:
        run = local_folder(RUN_ROOT, values["run"])
        fetch_runs(run)
        if not (run / METRICS).is_file():
            raise bad_value("run", run, f"no finished run here ({METRICS} is missing); name init=…/l0=…/seed=…")
        place = place_of(run)
        return {run: run.resolve().relative_to(place.run_root) if place and values["format"] == "hub" else Path()}
    root = local_folder(RUN_ROOT, values["run_root"])
    fetch_runs(root)
    if not (runs := find(root)):
        raise bad_value("run_root", root, "no finished run below it; give the run_root that was trained with")
    return {run: run.relative_to(root) for run in runs}


def export(runs: Mapping[Path, Path], out: Path, write: Writer, finish: Callable[[Path], None]) -> None:
    """Write all runs aside and rename the whole to `out`, so that it is there complete or not at all.

    `finish` is called with the folder before that.
    """
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
            finish(whole)
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
        runs, out, repository = runs_to_export(values), Path(values["out"]).expanduser(), values.get("repo")
        if repository:
            check_repository(repository)

        def finish(whole: Path) -> None:
            if values["format"] == "hub":
                write_card(runs, whole, repository)

        export(runs, out, FORMATS[values["format"]], finish)
        if repository:
            upload(out, repository)
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    for place in runs.values():
        print(f"{out / place}  ({values['format']})")
    return 0


if __name__ == "__main__":
    entry(main)
