"""Figures as PNG: figure 2 of the paper for each pair, all of them in one grid, and the summary over L0.

A figure's file has the digest of its data. It is drawn again only when the data have changed; matplotlib is imported
only then.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image

from saemd.files import replacing
from saemd.progress import bar
from saemd.stability.records import Record, record_name

STYLE_VERSION = 1  # raise it when the drawing changes
DOTS_PER_INCH = 150


def figure2_path(folder: Path, record: Record) -> Path:
    return folder / "figures" / f"figure2_{record_name(record)}.png"


def draw_pairs(folder: Path, records: list[Record]) -> None:
    """Figure 2 of each record, from its file in `pairs/`."""
    _draw(folder, _pairs(folder, records))


def draw_all(folder: Path, records: list[Record]) -> None:
    """Figure 2 of each record, the grid of them, and the summary (`summary_narrow.png`: the same for phones)."""
    drawings = _pairs(folder, records)
    if records:
        names = {"grid": "figure2_grid", "summary": "summary", "narrow": "summary_narrow"}
        drawings += [(folder / "figures" / f"{name}.png", kind, records) for kind, name in names.items()]
    _draw(folder, drawings)


Drawing = tuple[Path, str, list[Record]]  # its file, its kind, what it shows


def _pairs(folder: Path, records: list[Record]) -> list[Drawing]:
    return [(figure2_path(folder, record), "pair", [record]) for record in records]


def _draw(folder: Path, drawings: list[Drawing]) -> None:
    digests = {path: _digest(folder, records) for path, _, records in drawings}
    todo = [drawing for drawing in drawings if _digest_of(drawing[0]) != digests[drawing[0]]]
    if not todo:
        return
    from saemd.report.figure2 import grid_figure, pair_figure
    from saemd.report.summary import summary_figure

    def points(record: Record) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        with np.load(folder / "pairs" / f"{record_name(record)}.npz") as file:
            return file["cos_dec"], file["cos_enc"], file["match_enc"] == file["match_dec"]

    draw = {
        "pair": lambda records: pair_figure(records[0], points(records[0])),
        "grid": lambda records: grid_figure(records, points),
        "summary": summary_figure,
        "narrow": lambda records: summary_figure(records, columns=1),
    }
    with bar("drawing", total=len(todo), unit="figures") as progress:
        for path, kind, records in todo:
            figure = draw[kind](records)
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
