"""The page around the report: escaping, tables, embedded images, and one inline stylesheet. No network, no script."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

CSS = """
:root { color-scheme: light dark; --ground: #f7f8fa; --card: #ffffff; --ink: #1c2330; --soft: #5b6472; --line: #e0e4ea;
  --head: #f0f2f6; --accent: #0065a3; --warn-ground: #fff4e5; --warn-line: #e08a00; --warn-ink: #6b3a00; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #12161d; --card: #1b212b; --ink: #e7eaf0; --soft: #9ea8b8; --line: #303947;
    --head: #232b37; --accent: #6db9ec; --warn-ground: #33270f; --warn-line: #e0a030; --warn-ink: #f5dcae; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 36px 20px 64px; }
h1 { font-size: 1.85rem; line-height: 1.2; margin: 0 0 12px; letter-spacing: -0.015em; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 44px 0 12px; letter-spacing: -0.005em; }
h3 { font-size: 1rem; margin: 26px 0 10px; }
p { margin: 0 0 12px; max-width: 74ch; overflow-wrap: anywhere; }
.lead { font-size: 1.06rem; }
.soft { color: var(--soft); font-size: 0.9rem; }
.scroll + .soft { margin-top: 10px; }
.warning { background: var(--warn-ground); border-left: 4px solid var(--warn-line); color: var(--warn-ink);
  border-radius: 6px; padding: 14px 18px; margin: 22px 0; overflow-wrap: anywhere; }
.warning p:last-child { margin-bottom: 0; }
.warning ul { margin: 0; padding-left: 20px; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: 0.875rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: 6px 8px; line-height: 22px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
thead th { background: var(--head); font-weight: 600; vertical-align: bottom; line-height: 18px; }
thead th span { display: block; color: var(--soft); font-weight: 400; font-size: 0.8rem; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--card);
  padding-left: 14px; }
th:last-child, td:last-child { padding-right: 14px; }
thead th:first-child { background: var(--head); }
td:first-child { font-weight: 600; }
tbody tr.first:not(:first-child) > * { border-top: 2px solid var(--line); }
table.plain td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
table.plain td:first-child { font-weight: 400; color: var(--soft); white-space: nowrap; width: 1%;
  padding-right: 28px; }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 8px; }
.wide { max-width: 860px; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(320px, 100%), 1fr)); gap: 16px; }
dl { display: grid; grid-template-columns: minmax(0, 190px) minmax(0, 1fr); gap: 10px 22px; margin: 0;
  max-width: 880px; }
dt { font-weight: 600; }
dd { margin: 0; }
details > summary { cursor: pointer; color: var(--accent); margin: 8px 0; }
@media (max-width: 640px) {
  main { padding: 22px 14px 48px; }
  h1 { font-size: 1.5rem; }
  dl { grid-template-columns: 1fr; gap: 2px; }
  table:not(.plain) tr > :first-child { white-space: normal; overflow-wrap: anywhere; min-width: 84px; }
  dd { margin-bottom: 12px; }
  table.plain td:first-child { white-space: normal; width: 42%; padding-right: 8px; }
}
"""


def page(title: str, body: list[str]) -> str:
    """A whole document; `body` holds HTML."""
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>"
    )
    return f"{head}\n<body><main>\n" + "\n".join(body) + "\n</main></body></html>\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, group: bool = False) -> str:
    """A table that scrolls in its own box. A head of "a|b" gets b as a second, softer line.

    With `group`, a rule is drawn where the first cell changes.
    """
    cells = "".join(
        f"<th>{escape(top)}<span>{escape(below)}</span></th>" if below else f"<th>{escape(top)}</th>"
        for top, _, below in (name.partition("|") for name in head)
    )
    lines, previous = [], None
    for row in rows:
        mark = ' class="first"' if group and row[0] != previous else ""
        previous = row[0]
        lines.append(f"<tr{mark}>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>")
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def listing(rows: Sequence[tuple[str, str]]) -> str:
    """Keys and values, wrapping."""
    lines = "".join(f"<tr><td>{escape(key)}</td><td>{escape(value)}</td></tr>" for key, value in rows)
    return f'<div class="scroll"><table class="plain"><tbody>{lines}</tbody></table></div>'


def image(path: Path, text: str, css_class: str = "", narrow: Path | None = None) -> str:
    """A PNG inside the page, and another for narrow screens; `text` describes it for those who cannot see it."""
    source = f'<source media="(max-width: 640px)" srcset="{_data(narrow)}">' if narrow else ""
    picture = f'<picture>{source}<img alt="{escape(text)}" src="{_data(path)}"></picture>'
    return f'<figure class="{css_class}">{picture}</figure>' if css_class else f"<figure>{picture}</figure>"


def _data(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def definitions(items: dict[str, str]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in items.items()) + "</dl>"


def paragraph(text: str, css_class: str = "") -> str:
    return f'<p class="{css_class}">{escape(text)}</p>' if css_class else f"<p>{escape(text)}</p>"
