"""The page around the report: escaping, tables, embedded images, one inline stylesheet. No network, no script."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

CSS = Path(__file__).with_name("page.css").read_text(encoding="utf-8")


def page(title: str, body: list[str]) -> str:
    """A whole document; `body` holds HTML."""
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>\n{CSS}</style></head>"
    )
    return f"{head}\n<body><main>\n" + "\n".join(body) + "\n</main></body></html>\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, group: bool = False) -> str:
    """A table that scrolls in its own box. A head or cell of "a|b" gets b as a second, softer line.

    With `group`, a rule is drawn where the first cell changes.
    """
    cells = "".join(f"<th>{_two_lines(name)}</th>" for name in head)
    lines, previous = [], None
    for row in rows:
        mark = ' class="first"' if group and row[0] != previous else ""
        previous = row[0]
        lines.append(f"<tr{mark}>" + "".join(f"<td>{_two_lines(cell)}</td>" for cell in row) + "</tr>")
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _two_lines(text: str) -> str:
    top, _, below = text.partition("|")
    return f"{escape(top)}<span>{escape(below)}</span>" if below else escape(top)


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


def folded(content: str, summary: str, fold: bool = True) -> list[str]:
    """The content, behind a line that opens it where `fold`."""
    return [f"<details><summary>{escape(summary)}</summary>", content, "</details>"] if fold else [content]


def definitions(items: dict[str, str]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in items.items()) + "</dl>"


def paragraph(text: str, css_class: str = "") -> str:
    return f'<p class="{css_class}">{escape(text)}</p>' if css_class else f"<p>{escape(text)}</p>"
