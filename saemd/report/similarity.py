"""The report's part on similarity: a warning on shared starts, the tables, the figures."""

from html import escape
from pathlib import Path
from typing import Any

from saemd.report import html
from saemd.report.cell_tables import cell_table, course_table, learned_table
from saemd.report.figures import course_records, embedded_pairs, figure2_path
from saemd.report.table import count, number, percent, shares_start, target
from saemd.stability.cells import cells
from saemd.stability.records import Record, is_named, label, seeds

KNOWN = {True: "yes", False: "no", None: "unknown"}


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


def over_training(folder: Path, snapshots: list[Record], finals: list[Record]) -> list[str]:
    """HTML of the agreement at each snapshot, with its figure; empty without snapshots."""
    if not snapshots:
        return []
    figures = folder / "figures"
    text = "Shared latents over the tokens of training, and below them the FVU, one line per start."
    body = ["<h2>Agreement over training</h2>"]
    body.append(html.image(figures / "tokens.png", text, _panels(snapshots), narrow=figures / "tokens_narrow.png"))
    caption = (
        "Above: share of latents that return under another seed. Below: the FVU at the same tokens. Band: 95 % "
        "interval over seeds, where there are three or more. Hollow marker at 0: agreement of the starts. Agreement "
        "that falls from 1: the seeds leave a shared start. Agreement that rises from 0: different starts converge. "
        "All points lie on one run of the full length, so an early point is not what a finished run of that length "
        "gives. “Same partner” says nothing near the start: with a tied encoder both matchings are one before "
        "training, so it is 100 % at cosines of chance."
    )
    body.append(html.paragraph(caption, "soft"))
    return [*body, *html.folded(course_table(course_records(snapshots, finals)), "Each snapshot")]


def similarity(folder: Path, records: list[Record], recurring: list[dict[str, Any]]) -> list[str]:
    """HTML of the records, with the figures in `folder`; empty without a record."""
    if not records:
        return []
    threshold, figures = records[0]["shared_threshold"], folder / "figures"
    rows = cells(records)
    is_single = all(row["pairs"] == 1 for row in rows)
    body = ["<h2>Similarity, beside drift and chance</h2>"]
    body.append(_main_table(records, "") if is_single else cell_table(rows))
    note = f"“Shared”: same partner, both cosines above {threshold:g}. * seeds share their start."
    if not is_single:
        note += " Under each mean: its 95 % interval, from resampled seeds; with two seeds there is one pair and none."
    body.append(html.paragraph(note, "soft"))
    if not is_single:
        body += html.folded(_main_table(records, ""), "Each pair of seeds")
    if all(record["alive"] is not None for record in records):
        body += html.folded(_main_table(records, "_alive"), "The same for latents alive in both")
    body += html.folded(_detail_table(records), "More about the matchings")
    if learned := learned_table(rows):
        body += ["<h2>What training added, and what does not return</h2>", learned]
    if any(is_named(record) for record in records):
        return body + _latent_by_latent(folder, records)
    body.append("<h2>Over L0</h2>")
    summary = "Cosines, drift, floor, same partner and shared over the target L0, as in the table above."
    body.append(html.image(figures / "summary.png", summary, "wide", narrow=figures / "summary_narrow.png"))
    if any(entry["runs"] > 2 for entry in recurring):
        body.append("<h2>In how many seeds a latent returns</h2>")
        text = "Share of latents that return in all, in half, in fewer or in none of the other seeds, per start and L0."
        body.append(html.image(figures / "recurrence.png", text, "wide"))
    body.append("<h2>By firing rate</h2>")
    text = "Share of latents that return, by the share of held-out tokens on which they fire, one line per start."
    body.append(html.image(figures / "rates.png", text, _panels(records)))
    if any(record.get("by_ablation") for record in records):
        body.append("<h2>By what a latent does</h2>")
        text = "Share of latents that return, in fifths: those whose absence would raise the FVU most on the left."
        body.append(html.image(figures / "ablation.png", text, _panels(records)))
    body += _latent_by_latent(folder, records)
    return body


def _panels(records: list[Record]) -> str:
    """The width of a figure with one panel per L0."""
    return {1: "half", 2: "wide"}.get(len({record["l0"] for record in records}), "full")


def _latent_by_latent(folder: Path, records: list[Record]) -> list[str]:
    body = ["<h2>Latent by latent</h2>"]
    body.append(
        html.paragraph(
            "One dot per latent of the first seed: decoder cosine across, encoder cosine up. Blue where encoder and "
            "decoder chose the same partner, orange where not. A feature has returned where its dot is blue and near "
            "the upper right corner. Dashed: drift from the start; dotted: random floor; cross: if apart."
        )
    )
    shown = embedded_pairs(records)
    if len(shown) < len(records) and not is_named(records[0]):
        body.append(html.image(folder / "figures" / "figure2_grid.png", "Matched cosines of the first pair of each"))
    if len(shown) < len(records):
        which = f"{len(shown)} of {len(records)} pairs; saemd stability figures=all draws each into figures/."
        body.append(html.paragraph(which, "soft"))
    for init in dict.fromkeys(label(record) for record in shown):
        images = ""
        for record in shown:
            if label(record) == init:
                name = init if is_named(record) else f"{init}, L0 {record['l0']}, seeds {seeds(record, ' and ')}"
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
            count(record["alive"]),
            " / ".join(number(value, 1) for value in record["achieved_l0"]),
            " / ".join(number(value, 3) for value in record["fvu"]),
        ]
        for record in records
    ]
    return html.table(head, rows, group=True)


def _detail_table(records: list[Record]) -> str:
    head = ["init", "L0|target", "seeds", "encoder|start", "same start|dec / enc", "latents", "alive|each"]
    head += ["alive|in both", "shared|cosines alone", "shared|by FVU", "same|index"]
    head += [f"cos {part}|where {which}" for part in ("dec", "enc") for which in ("same", "other")]
    shares = ("shared_cosines", "shared_ablation", "identity_match")
    cosines = ("mean_cos_dec_same", "mean_cos_dec_other", "mean_cos_enc_same", "mean_cos_enc_other")
    rows = [
        [
            *_start(record),
            " / ".join(dict.fromkeys(str(encoder or "–") for encoder in record["encoder"])),
            " / ".join(KNOWN[record[key]] for key in ("same_start_dec", "same_start_enc")),
            " / ".join(f"{n:,}" for n in record.get("d_sae_each", [record["d_sae"]])),
            " / ".join(count(alive) for alive in record["alive_each"] or [None]),
            count(record["alive"]),
            *(percent(record.get(key)) for key in shares),
            *(number(record[key], 3) for key in cosines),
        ]
        for record in records
    ]
    return html.table(head, rows, group=True)


def _start(record: Record) -> list[str]:
    star = " *" if shares_start(record) else ""
    return [label(record), target(record["l0"]), seeds(record, ", ") + star]


def _range(records: list[Record], key: str) -> str:
    values = [record[key] for record in records if record[key] is not None]
    if not values:
        return "–"
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"
