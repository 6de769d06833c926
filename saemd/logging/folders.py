"""A sweep's `stability` and `quality` folders as wandb runs: a table, its figures, and curves over the target L0."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from saemd.files import read_json
from saemd.logging import names
from saemd.logging.account import resolve_mode, server
from saemd.logging.config import LoggerConfig, check
from saemd.logging.loggers import run_id, start_run

Curves = Callable[[list[dict[str, Any]]], list[dict[str, float]]]


def log_stability(config: LoggerConfig, run_root: Path, group: str) -> None:
    """Log `<run_root>/stability/` as `log_folder` does, with one curve per figure of `names.STABILITY` and start."""
    log_folder(config, run_root, group, "stability", curves)


def log_quality(config: LoggerConfig, run_root: Path, group: str) -> None:
    """Log `<run_root>/quality/` as `log_folder` does, with one curve per score and start: the mean over seeds."""
    log_folder(config, run_root, group, "quality", score_curves)


def log_folder(config: LoggerConfig, run_root: Path, group: str, name: str, make_curves: Curves) -> None:
    """Log `<run_root>/<name>/` to wandb as a run of job type `name` in the sweep's group.

    A second call for the same group replaces the first one's run. It does nothing where table and figures are those
    that were logged, which `<folder>/wandb/logged` records; delete that file to log them again. Nothing is logged for
    `none` and `csv`, since the folder has a report already, and where the folder has no records yet. Raises `UserError`
    where wandb cannot be reached.
    """
    check(config)
    if config.name != "wandb" or (mode := resolve_mode(config)) == "disabled":
        return
    folder, file = run_root / name, run_root / name / f"{name}.json"
    records = read_json(file, "the same command makes it again") if file.is_file() else []
    if not records:
        return
    pictures = [path for path in sorted(folder.rglob("*.png")) if "wandb" not in path.relative_to(folder).parts]
    identity = run_id(config.group or group, name, config.project)
    earlier = list(folder.glob(f"wandb/offline-run-*-{identity}"))
    marker = folder / "wandb" / "logged"
    content = _digest([file, *pictures], identity, mode, config.entity, server())
    if marker.is_file() and marker.read_text() == content and (earlier or mode == "online"):
        return
    import wandb

    marker.unlink(missing_ok=True)
    for stale in earlier:
        shutil.rmtree(stale)
    run = start_run(config, folder, group=group, name=name, id=identity, job_type=name)
    exit_code = 1
    try:
        run.define_metric(f"{name}/l0", hidden=True)
        run.define_metric(f"{name}/*", step_metric=f"{name}/l0")
        for row in make_curves(records):
            run.log(row)
        columns, data = table(records)
        figures = [wandb.Image(str(path), caption=str(path.relative_to(folder).with_suffix(""))) for path in pictures]
        media: dict[str, Any] = {f"{name}/table": wandb.Table(columns=columns, data=data)}
        run.log(media | ({f"{name}/figures": figures} if figures else {}))
        exit_code = 0
    finally:
        run.finish(exit_code=exit_code)
    marker.parent.mkdir(exist_ok=True)  # wandb may keep its files elsewhere
    marker.write_text(content)


def table(records: list[dict[str, Any]]) -> tuple[list[Any], list[Any]]:
    """Columns and rows of all records. Lists, such as the seeds, become text; missing values become None."""
    columns = list(dict.fromkeys(key for record in records for key in record))
    return columns, [[_cell(record.get(key)) for key in columns] for record in records]


def curves(records: list[dict[str, Any]]) -> list[dict[str, float]]:
    """One row per target L0, ascending: `stability/<figure>/<init>`, the mean over that start's pairs of seeds."""
    rows: list[dict[str, float]] = []
    for l0 in sorted({record["l0"] for record in records}):
        row: dict[str, float] = {names.STABILITY_L0: l0}
        at_l0 = [record for record in records if record["l0"] == l0]
        for init in dict.fromkeys(_label(record) for record in at_l0):
            pairs = [record for record in at_l0 if _label(record) == init]
            for name in names.STABILITY:
                values = [pair[name.removeprefix("stability/")] for pair in pairs]
                if None not in values:  # a figure over no latents
                    row[f"{name}/{init}"] = fmean(values)
        rows.append(row)
    return rows


def score_curves(records: list[dict[str, Any]]) -> list[dict[str, float]]:
    """One row per target L0, ascending: means over seeds, `quality/<score>/<init>` and `quality/achieved_l0/<init>`."""
    rows: list[dict[str, float]] = []
    for l0 in sorted({record["l0"] for record in records}):
        row: dict[str, float] = {names.QUALITY_L0: l0}
        done = [record for record in records if record["l0"] == l0 and record["status"] == "done"]
        for score, init in dict.fromkeys((record["score"], record["init"]) for record in done):
            mine = [record for record in done if (record["score"], record["init"]) == (score, init)]
            row[f"quality/{score}/{init}"] = fmean(record["value"] for record in mine)
            row[f"quality/achieved_l0/{init}"] = fmean(record["achieved_l0"] for record in mine)
        rows.append(row)
    return rows


def _label(record: dict[str, Any]) -> str:
    """A start, with the further parts of its runs' folders that both seeds share."""
    parts = record.get("folder", {}).items()
    return " ".join([record["init"], *(f"{key}={value}" for key, value in parts if isinstance(value, str))])


def _digest(files: list[Path], *destination: str | None) -> str:
    """A digest of the files' content and of where they are logged to."""
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    return hashlib.sha256(json.dumps([digests, destination]).encode()).hexdigest()


def _cell(value: Any) -> Any:
    return value if value is None or isinstance(value, (str, int, float, bool)) else json.dumps(value)
