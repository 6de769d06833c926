"""Figures as PNG: figure 2 of the paper for each pair, all of them in one grid, and the summary over L0.

A figure's file has the digest of its data. It is drawn again only when the data have changed; matplotlib is imported
only then.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from saemd.files import replacing
from saemd.progress import bar
from saemd.stability.records import Record, record_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from saemd.report.figure2 import Points

STYLE_VERSION = 1  # raise it when the drawing changes
DOTS_PER_INCH = 150


def figure2_path(folder: Path, record: Record) -> Path:
    return folder / "figures" / f"figure2_{record_name(record)}.png"


def draw_pairs(folder: Path, records: list[Record]) -> None:
    """Figure 2 of each record, from its file in `pairs/`."""
    _draw(folder, [_pair_task(folder, record) for record in records])


def draw_all(folder: Path, records: list[Record]) -> None:
    """Figure 2 of each record, the grid of them, and the summary (`summary_narrow.png`: the same for phones)."""
    tasks = [_pair_task(folder, record) for record in records]
    if records:
        figures = folder / "figures"
        tasks.append((figures / "figure2_grid.png", records, partial(_grid, folder, records)))
        tasks.append((figures / "summary.png", records, partial(_summary, records, 2)))
        tasks.append((figures / "summary_narrow.png", records, partial(_summary, records, 1)))
    _draw(folder, tasks)


Task = tuple[Path, list[Record], "Callable[[], Figure]"]  # where, what it shows, how


def _pair_task(folder: Path, record: Record) -> Task:
    return figure2_path(folder, record), [record], partial(_pair, folder, record)


def _pair(folder: Path, record: Record) -> Figure:
    from saemd.report.figure2 import pair_figure

    return pair_figure(record, _points(folder, record))


def _grid(folder: Path, records: list[Record]) -> Figure:
    from saemd.report.figure2 import grid_figure

    return grid_figure(records, partial(_points, folder))


def _summary(records: list[Record], columns: int) -> Figure:
    from saemd.report.summary import summary_figure

    return summary_figure(records, columns)


def _points(folder: Path, record: Record) -> Points:
    with np.load(folder / "pairs" / f"{record_name(record)}.npz") as file:
        return file["cos_dec"], file["cos_enc"], file["match_enc"] == file["match_dec"]


def _draw(folder: Path, tasks: list[Task]) -> None:
    digests = {path: _digest(folder, records) for path, records, _ in tasks}
    todo = [task for task in tasks if _digest_of(task[0]) != digests[task[0]]]
    if not todo:
        return
    with bar("drawing", total=len(todo), unit="figures") as progress:
        for path, _, make in todo:
            figure = make()
            with replacing(path) as aside:
                figure.savefig(aside, format="png", dpi=DOTS_PER_INCH, metadata={"Digest": digests[path]})
            progress.advance()


def _digest(folder: Path, records: list[Record]) -> str:
    digest = hashlib.sha256(json.dumps([STYLE_VERSION, records]).encode())
    for record in records:
        with np.load(folder / "pairs" / f"{record_name(record)}.npz") as file:
            digest.update(str(file["inputs"]).encode())
    return digest.hexdigest()


def _digest_of(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        with Image.open(path) as image:
            return image.info.get("Digest")
    except OSError:  # damaged: drawn again
        return None
