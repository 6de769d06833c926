"""The report's part on similarity: a warning on shared starts, the tables, the figures."""

from html import escape
from pathlib import Path

from saemd.report import html
from saemd.report.figures import figure2_path
from saemd.report.table import number, percent, shares_start
from saemd.stability.records import Record, label, seeds


def shared_start_warning(records: list[Record]) -> list[str]:
    """HTML of the warning; empty where no seeds share their start."""
    shared = [record for record in records if shares_start(record)]
    if not shared:
        return []
    items = []
    for init in dict.fromkeys(label(record) for record in shared):
        group = [record for record in shared if label(record) == init]
        parts = [name for name, key in (("decoder", "dec"), ("encoder", "enc")) if group[0][f"same_start_{key}"]]
        figures = " ".join(
            f"{name.capitalize()}: measured {_range(group, f'mean_cos_{key}')}, drift {_range(group, f'drift_{key}')}, "
            f"if apart {_range(group, f'apart_{key}')}."
            for name, key in (("decoder", "dec"), ("encoder", "enc"))
            if name in parts
        )
        items.append(f"<li><strong>{escape(init)}</strong>, same {' and '.join(parts)}. {escape(figures)}</li>")
    text = html.paragraph(
        "Weights that seeds share have similarity 1.0 before the first step, so a high value says nothing about "
        "convergence. Compare it with the drift (cosine with the start: how far the latents moved) and with “if "
        "apart”, the value that the same amount of movement in unrelated directions would leave."
    )
    head = "<p><strong>Some seeds share their starting weights.</strong></p>"
    return [f'<div class="warning">{head}{text}<ul>{"".join(items)}</ul></div>']


def similarity(folder: Path, records: list[Record]) -> list[str]:
    """HTML of the records, with the figures in `folder`; empty without a record."""
    if not records:
        return []
    threshold = records[0]["shared_threshold"]
    body = ["<h2>Similarity, beside drift and chance</h2>", _main_table(records, "")]
    body.append(html.paragraph(f"“Shared”: both cosines above {threshold:g}. * seeds share their start.", "soft"))
    body.append("<details><summary>The same for latents alive in both seeds</summary>")
    body += [_main_table(records, "_alive"), "</details>"]
    body.append("<details><summary>More about the matchings</summary>")
    body += [_detail_table(records), "</details>", "<h2>Over L0</h2>"]
    summary = "Cosines, drift, floor, same partner and shared over the target L0, as in the table above."
    figures = folder / "figures"
    body.append(html.image(figures / "summary.png", summary, "wide", narrow=figures / "summary_narrow.png"))
    body.append("<h2>Latent by latent</h2>")
    body.append(
        html.paragraph(
            "One dot per latent of the first seed: decoder cosine across, encoder cosine up. Blue where encoder and "
            "decoder chose the same partner, orange where not. A feature has returned where its dot is blue and near "
            "the upper right corner. Dashed: drift from the start; dotted: random floor; cross: if apart."
        )
    )
    for init in dict.fromkeys(label(record) for record in records):
        images = ""
        for record in records:
            if label(record) == init:
                name = f"{init}, L0 {record['l0']}, seeds {seeds(record, ' and ')}"
                images += html.image(figure2_path(folder, record), f"{name}: matched cosines of every latent")
        body.append(f'<h3>{escape(init)}</h3><div class="figures">{images}</div>')
    return body


def _main_table(records: list[Record], suffix: str) -> str:
    head = ["init", "L0|target", "seeds", "cos dec|PW-MCC", "drift|dec", "if apart|dec", "cos enc", "drift|enc"]
    head += ["if apart|enc", "floor", "same|partner", "shared", "alive|in both", "L0|reached", "FVU"]
    cosines = ("mean_cos_dec", "drift_dec", "apart_dec", "mean_cos_enc", "drift_enc", "apart_enc", "random_floor")
    rows = [
        [
            *_start(record),
            *(number(record[key + suffix], 3) for key in cosines),
            *(percent(record[key + suffix]) for key in ("same_match", "shared")),
            f"{record['alive']:,}",
            " / ".join(number(value, 1) for value in record["achieved_l0"]),
            " / ".join(number(value, 3) for value in record["fvu"]),
        ]
        for record in records
    ]
    return html.table(head, rows, group=True)


def _detail_table(records: list[Record]) -> str:
    head = ["init", "L0|target", "seeds", "encoder|start", "same start|dec / enc", "latents", "alive|each"]
    head += ["alive|in both", "shared|cosines alone", "same|index", "cos dec|where same", "cos dec|where other"]
    head += ["cos enc|where same", "cos enc|where other"]
    shares = ("shared_cosines", "identity_match")
    cosines = ("mean_cos_dec_same", "mean_cos_dec_other", "mean_cos_enc_same", "mean_cos_enc_other")
    rows = [
        [
            *_start(record),
            " / ".join(dict.fromkeys(str(encoder or "–") for encoder in record["encoder"])),
            " / ".join(_yes(record[key]) for key in ("same_start_dec", "same_start_enc")),
            f"{record['d_sae']:,}",
            " / ".join(f"{count:,}" for count in record["alive_each"]),
            f"{record['alive']:,}",
            *(percent(record[key]) for key in shares),
            *(number(record[key], 3) for key in cosines),
        ]
        for record in records
    ]
    return html.table(head, rows, group=True)


def _start(record: Record) -> list[str]:
    star = " *" if shares_start(record) else ""
    return [label(record), str(record["l0"]), seeds(record, ", ") + star]


def _range(records: list[Record], key: str) -> str:
    values = [record[key] for record in records if record[key] is not None]
    if not values:
        return "–"
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"


def _yes(value: bool | None) -> str:
    return "unknown" if value is None else "yes" if value else "no"
