"""Figures as PNG: figure 2 of the paper for some pairs, a grid of them, and the summaries over L0, tokens and seeds.

A figure's file has the digest of its data. It is drawn again only when the data have changed; matplotlib is imported
only then.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from saemd.files import replacing
from saemd.progress import bar
from saemd.stability.records import Record, is_named, label, record_name

STYLE_VERSION = 2  # raise it when the drawing changes
DOTS_PER_INCH = 150
EMBEDDED = 6  # figures of single pairs in the report, and up to here without the grid
BESIDE_GRID = 3


@dataclass(frozen=True)
class Drawing:
    """One figure: its file, its kind (a key of `draw` in `_draw`), and what it shows."""

    path: Path
    kind: str
    data: list[Any]
    dots: Sequence[Record] = ()  # the records whose latents are shown one by one


def figure2_path(folder: Path, record: Record) -> Path:
    return folder / "figures" / f"figure2_{record_name(record)}.png"


def first_pairs(records: list[Record]) -> list[Record]:
    """The first pair of each start and L0."""
    return list({(label(record), record["l0"]): record for record in reversed(records)}.values())[::-1]


def embedded_pairs(records: list[Record]) -> list[Record]:
    """The pairs whose own figures the report shows: all of few; of many, one of each start, at a middle L0."""
    if len(records) <= EMBEDDED or any(is_named(record) for record in records):
        return records[: len(records) if len(records) <= EMBEDDED else BESIDE_GRID]
    firsts = first_pairs(records)
    chosen = []
    for init in dict.fromkeys(label(record) for record in firsts):
        of_start = [record for record in firsts if label(record) == init]
        chosen.append(of_start[len(of_start) // 2])
    return chosen[:BESIDE_GRID]


def course_records(snapshots: list[Record], finals: list[Record]) -> list[Record]:
    """The snapshots with the final runs at their end, where that end is no snapshot itself; empty without snapshots."""
    ends = {(label(record), record["l0"], record["tokens"]) for record in snapshots}
    cells = {(init, l0) for init, l0, _ in ends}
    return snapshots + [
        record
        for record in finals
        if (cell := (label(record), record["l0"])) in cells and (*cell, record["tokens"]) not in ends
    ]


def draw_pairs(folder: Path, records: list[Record]) -> None:
    """Figure 2 of the first of these records, from its file in `pairs/`."""
    _draw(folder, [_pair(folder, record) for record in records[:1]])


def draw_all(
    folder: Path, records: list[Record], snapshots: list[Record], recurring: list[dict[str, Any]], every: bool = False
) -> None:
    """All figures of a comparison; of figure 2 the first pair of each start and L0, or with `every` each pair.

    `summary.png` (over L0), `rates.png` (by firing rate), `ablation.png` (by what a latent does, where that is known),
    `figure2_grid.png`; `tokens.png` where there are snapshots, `recurrence.png` with three seeds or more. Those with
    `_narrow` are for phones.
    """
    if not records:
        return
    firsts, figures = first_pairs(records), folder / "figures"
    pairs = records if every else [*embedded_pairs(records), *firsts]
    drawings = list({drawing.path: drawing for drawing in (_pair(folder, record) for record in pairs)}.values())
    if any(is_named(record) for record in records):  # they have no L0 that was asked for, and no seeds
        _draw(folder, drawings)
        return
    drawings += [
        Drawing(figures / "figure2_grid.png", "grid", firsts, firsts),
        Drawing(figures / "summary.png", "summary", records),
        Drawing(figures / "summary_narrow.png", "summary_narrow", records),
        Drawing(figures / "rates.png", "rates", records),
    ]
    if measured := [record for record in records if record.get("by_ablation")]:  # not of runs of earlier versions
        drawings.append(Drawing(figures / "ablation.png", "ablation", measured))
    if along := course_records(snapshots, records):
        drawings += [Drawing(figures / f"{kind}.png", kind, along) for kind in ("tokens", "tokens_narrow")]
    if several := [entry for entry in recurring if entry["runs"] > 2]:
        drawings.append(Drawing(figures / "recurrence.png", "recurrence", several))
    _draw(folder, drawings)


def _pair(folder: Path, record: Record) -> Drawing:
    return Drawing(figure2_path(folder, record), "pair", [record], [record])


def _draw(folder: Path, drawings: list[Drawing]) -> None:
    digests = {drawing.path: _digest(folder, drawing) for drawing in drawings}
    todo = [drawing for drawing in drawings if _digest_of(drawing.path) != digests[drawing.path]]
    if not todo:
        return
    from saemd.report.binned import ablation_figure, rates_figure
    from saemd.report.course import course_figure
    from saemd.report.figure2 import grid_figure, pair_figure
    from saemd.report.recurrence import recurrence_figure
    from saemd.report.summary import summary_figure

    def points(record: Record) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        with np.load(folder / "pairs" / f"{record_name(record)}.npz") as file:
            return file["cos_dec"], file["cos_enc"], file["match_enc"] == file["match_dec"]

    draw = {
        "pair": lambda records: pair_figure(records[0], points(records[0])),
        "grid": lambda records: grid_figure(records, points),
        "summary": summary_figure,
        "summary_narrow": lambda records: summary_figure(records, columns=1),
        "rates": rates_figure,
        "ablation": ablation_figure,
        "tokens": course_figure,
        "tokens_narrow": lambda records: course_figure(records, columns=1),
        "recurrence": recurrence_figure,
    }
    with bar("drawing", total=len(todo), unit="figures") as progress:
        for drawing in todo:
            figure = draw[drawing.kind](drawing.data)
            with replacing(drawing.path) as aside:
                metadata = {"Digest": digests[drawing.path]}
                figure.savefig(aside, format="png", dpi=DOTS_PER_INCH, metadata=metadata)
            progress.advance()


def _digest(folder: Path, drawing: Drawing) -> str:
    digest = hashlib.sha256(json.dumps([STYLE_VERSION, drawing.data]).encode())
    for record in drawing.dots:
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
