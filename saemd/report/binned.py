"""Shared latents in bins, by how often they fire or by what they do: one line per start, one panel per L0."""

from typing import Any

import numpy as np
from matplotlib.lines import Line2D

from saemd.report.style import INK, Figure, evenly, new_figure, quiet, styles_of
from saemd.stability.records import Record, label

PANELS = 5
Bin = tuple[float, float | None]
FIFTHS = ("most", "2nd", "3rd", "4th", "least")


def bins_of(records: list[Record]) -> dict[Bin, tuple[int, float]]:
    """Latents and the share of them that is shared, in each bin of `by_rate`, over all pairs; rarest first."""
    summed = _summed([((row["low"], row["high"]), row) for record in records for row in record["by_rate"]])
    ordered = sorted(summed, key=lambda bin: (bin[0], np.inf if bin[1] is None else bin[1]))
    return {bin: summed[bin] for bin in ordered}


def bin_name(bin: Bin) -> str:
    """`dead`, `< 0.01 %`, `0.1–1 %`, or `> 10 %`."""
    low, high = bin
    if high == 0:
        return "dead"
    if high is None:
        return f"> {100 * low:g} %"
    return f"{100 * low:g}–{100 * high:g} %" if low else f"< {100 * high:g} %"


def rates_figure(records: list[Record]) -> Figure:
    """From the `by_rate` of all pairs."""
    names = {bin: bin_name(bin) for bin in bins_of(records)}
    found = [(record, [((row["low"], row["high"]), row) for row in record["by_rate"]]) for record in records]
    return _figure(found, names, "fires on, of held-out tokens")


def ablation_figure(records: list[Record]) -> Figure:
    """From the `by_ablation` of the pairs that have one."""
    found = [(record, list(enumerate(record["by_ablation"]))) for record in records if record.get("by_ablation")]
    return _figure(found, dict(enumerate(FIFTHS)), "fifths of the latents, by what each adds to the FVU if set to 0")


def _figure(found: list[tuple[Record, list[tuple[Any, Any]]]], names: dict[Any, str], x_label: str) -> Figure:
    """From each record's bins, the key of a bin beside its row; `names` has all bins in their order."""
    records = [record for record, _ in found]
    styles = styles_of(label(record) for record in records)
    targets = evenly(sorted({record["l0"] for record in records}), PANELS)
    every = list(names)
    width = max(2.4 * len(targets) + 0.6, 4.6)  # inches, as all sizes here
    in_row = max(1, int(width // 3.2))
    below = 1.05 + 0.23 * -(-len(styles) // in_row)
    height = 2.4 + below + 0.35
    figure = new_figure(width, height)
    panels = figure.subplots(1, len(targets), sharey=True, squeeze=False)[0]
    for axes, l0 in zip(panels, targets, strict=True):
        quiet(axes)
        for init, style in styles.items():
            own = [rows for record, rows in found if (label(record), record["l0"]) == (init, l0)]
            summed = _summed([row for rows in own for row in rows])
            x = sorted(every.index(bin) for bin in summed)
            axes.plot(x, [summed[every[i]][1] for i in x], linewidth=1.8, markersize=5, **style)
        axes.set_title(f"L0 = {l0:g}", fontsize=11, fontweight="bold", color=INK, loc="left")
        axes.set_xticks(range(len(every)), list(names.values()), fontsize=8.5, rotation=35, ha="right")
        axes.set(ylim=(-0.02, 1.04), xlim=(-0.4, len(every) - 0.6))
    figure.supxlabel(x_label, fontsize=9.5, color=INK, y=(below - 0.75) / height)
    panels[0].set_ylabel("shared", color=INK, fontsize=10)
    handles = [Line2D([], [], linewidth=1.8, markersize=5, label=name, **styles[name]) for name in styles]
    figure.subplots_adjust(left=0.6 / width, right=1 - 0.12 / width, top=1 - 0.35 / height, bottom=below / height)
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.1 / width, 0.005), "frameon": False}
    figure.legend(handles=handles, ncols=in_row, fontsize=9.5, labelcolor=INK, handlelength=2.6, **place)
    return figure


def _summed(rows: list[tuple[Any, Any]]) -> dict[Any, tuple[int, float]]:
    """Latents and the share of them that is shared, of the rows of each bin together."""
    sums: dict[Any, list[float]] = {}
    for bin, row in rows:
        total = sums.setdefault(bin, [0, 0.0])
        total[0] += row["latents"]
        total[1] += row["latents"] * row["shared"]
    return {bin: (int(latents), shared / latents) for bin, (latents, shared) in sums.items()}
