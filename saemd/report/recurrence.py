"""In how many other seeds latents return: one bar per start and L0, from all others (dark) to none (light)."""

from typing import Any

from saemd.report.style import INK, Figure, evenly, new_figure, quiet

BARS = 30  # at most
# One hue from dark to light: the order stays visible in grey.
PARTS = (
    ("in all other seeds", "#08306b"),
    ("in half of them or more", "#4a90c2"),
    ("in fewer", "#b7d3e9"),
    ("in none", "#eef1f5"),
)


def parts(entry: dict[str, Any]) -> tuple[float, ...]:
    """The shares of `PARTS`, which sum to 1."""
    in_all, in_half, in_none = entry["in_all"], entry["in_half"], entry["in_none"]
    return in_all, in_half - in_all, 1 - in_half - in_none, in_none


def recurrence_figure(entries: list[dict[str, Any]]) -> Figure:
    """`entries` of `recurrence.json` with three runs or more; of more than `BARS`, some at even steps."""
    shown = evenly(entries, BARS)
    height = 0.27 * len(shown) + 0.95
    figure = new_figure(7.6, height)
    axes = figure.add_axes((0.27, 0.55 / height, 0.7, 0.27 * len(shown) / height))
    quiet(axes, axis="x")
    names = [f"{entry['label']}, L0 {entry['l0']:g}" for entry in shown]
    left = [0.0] * len(shown)
    for place, (name, colour) in enumerate(PARTS):
        widths = [parts(entry)[place] for entry in shown]
        axes.barh(range(len(shown)), widths, left=left, height=0.74, color=colour, edgecolor=INK, lw=0.3, label=name)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(shown)), names, fontsize=min(9, 9 * 26 / max(map(len, names))))
    axes.set(xlim=(0, 1), ylim=(len(shown) - 0.4, -0.6))
    axes.set_xlabel("share of all latents", fontsize=10, color=INK)
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, 1.0), "frameon": False, "handlelength": 1.2}
    figure.legend(*axes.get_legend_handles_labels(), ncols=4, fontsize=9, labelcolor=INK, **place)
    return figure
