"""Shared latents by how often they fire: one line per start, one panel per L0 (at most `PANELS`)."""

from typing import Any

import numpy as np
from matplotlib.lines import Line2D

from saemd.report.style import INK, Figure, evenly, new_figure, quiet, styles_of
from saemd.stability.records import Record, label

PANELS = 5
Bin = tuple[float, float | None]


def bins_of(records: list[Record]) -> dict[Bin, tuple[int, float]]:
    """Latents and the share of them that is shared, in each bin of `by_rate`, over all pairs; rarest first."""
    sums: dict[Bin, list[float]] = {}
    for record in records:
        for row in record["by_rate"]:
            total = sums.setdefault((row["low"], row["high"]), [0, 0.0])
            total[0] += row["latents"]
            total[1] += row["latents"] * row["shared"]
    ordered = sorted(sums, key=lambda bin: (bin[0], np.inf if bin[1] is None else bin[1]))
    return {bin: (int(sums[bin][0]), sums[bin][1] / sums[bin][0]) for bin in ordered}


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
    styles = styles_of(label(record) for record in records)
    targets = evenly(sorted({record["l0"] for record in records}), PANELS)
    every = list(bins_of(records))
    width = max(2.4 * len(targets) + 0.6, 4.6)  # inches, as all sizes here
    in_row = max(1, int(width // 3.2))
    below = 1.05 + 0.23 * -(-len(styles) // in_row)
    height = 2.4 + below + 0.35
    figure = new_figure(width, height)
    panels = figure.subplots(1, len(targets), sharey=True, squeeze=False)[0]
    for axes, l0 in zip(panels, targets, strict=True):
        quiet(axes)
        for init, style in styles.items():
            found = bins_of([r for r in records if (label(r), r["l0"]) == (init, l0)])
            x = [every.index(bin) for bin in found]
            axes.plot(x, [shared for _, shared in found.values()], linewidth=1.8, markersize=5, **style)
        axes.set_xlabel("fires on, of held-out tokens", fontsize=9.5, color=INK)
        axes.set_title(f"L0 = {l0:g}", fontsize=11, fontweight="bold", color=INK, loc="left")
        axes.set_xticks(range(len(every)), [bin_name(bin) for bin in every], fontsize=8.5, rotation=35, ha="right")
        axes.set(ylim=(-0.02, 1.04), xlim=(-0.4, len(every) - 0.6))
    panels[0].set_ylabel("shared", color=INK, fontsize=10)
    handles = [Line2D([], [], linewidth=1.8, markersize=5, label=name, **styles[name]) for name in styles]
    figure.subplots_adjust(left=0.6 / width, right=1 - 0.12 / width, top=1 - 0.35 / height, bottom=below / height)
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.1 / width, 0.005), "frameon": False}
    figure.legend(handles=handles, ncols=in_row, fontsize=9.5, labelcolor=INK, handlelength=2.6, **place)
    return figure
