"""Make `report.png`, the annotated screenshot of the demo's report, with headless Chromium.

    make demo
    python docs/images/annotate_report.py runs/demo/stability/report.html

The positions are those of the demo's report, 1,180 pixels wide.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

OUT = Path(__file__).with_name("report.png")
RED, INK, GROUND = "#c2185b", "#1c2330", "#f7f8fa"
TOP = (0, 20, 1180, 735)  # title, warning, table
FIGURES = ((14, 2680, 396, 3182), (14, 3230, 396, 3732))  # mirror, uniform
TABLE_MARKS = (("2", 331), ("3", 396), ("4", 461), ("5", 733), ("6", 864), ("7", 1125))
NOTES = (
    ("1", "the seeds share their start:", "read the next columns with care"),
    ("2", "similarity of the matched", "decoder rows, 1.0 at most"),
    ("3", "cosine with the start:", "1.0 if nothing has moved"),
    ("4", "similarity left if both seeds", "had moved apart"),
    ("5", "similarity of random", "dictionaries: chance"),
    ("6", "share of latents that have", "returned under another seed"),
    ("7", "unexplained variance:", "quality of each SAE"),
    ("8", "a dot is a latent; upper right:", "the same feature in both seeds"),
    ("9", "orange: encoder and decoder", "chose different partners"),
)


def font(size: int, weight: str = "normal") -> ImageFont.FreeTypeFont:
    properties = font_manager.FontProperties(family="DejaVu Sans", weight=weight)
    return ImageFont.truetype(font_manager.findfont(properties), size)


def screenshot(page: Path) -> Image.Image:
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder, "page.png")
        window = ["--window-size=1180,4600", f"--screenshot={shot}", page.resolve().as_uri()]
        subprocess.run(["chromium", "--headless", "--no-sandbox", "--hide-scrollbars", *window], check=True)
        return Image.open(shot).convert("RGB")


def mark(draw: ImageDraw.ImageDraw, number: str, x: int, y: int, to: tuple[int, int] | None = None) -> None:
    """A numbered disc at (x, y), with an arrow to the point `to`."""
    if to:
        draw.line([(x, y), to], fill=RED, width=3)
        sign = 1 if to[1] < y else -1
        draw.polygon([to, (to[0] - 6, to[1] + 11 * sign), (to[0] + 6, to[1] + 11 * sign)], fill=RED)
    draw.ellipse([x - 14, y - 14, x + 14, y + 14], fill=RED)
    draw.text((x, y), number, fill="white", font=font(17, "bold"), anchor="mm")


def main(page: Path) -> None:
    shot = screenshot(page)
    height = TOP[3] - TOP[1]
    canvas = Image.new("RGB", (1180, height + 590), GROUND)
    canvas.paste(shot.crop(TOP), (0, 0))
    figures = height + 76
    for x, box in zip((14, 404), FIGURES, strict=True):
        canvas.paste(shot.crop(box), (x, figures))
    draw = ImageDraw.Draw(canvas)
    mark(draw, "1", 1130, 228)
    for number, x in TABLE_MARKS:
        mark(draw, number, x, height + 42, (x, height - 5))
    mark(draw, "8", 335, figures + 190, (306, figures + 102))
    mark(draw, "9", 640, figures + 150, (560, figures + 262))
    for row, (number, *lines) in enumerate(NOTES):
        y = figures + 24 + 55 * row
        mark(draw, number, 826, y)
        for offset, line in zip((-11, 11), lines, strict=True):
            draw.text((850, y + offset), line, fill=INK, font=font(17), anchor="lm")
    canvas.quantize(128, dither=Image.Dither.NONE).save(OUT, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
