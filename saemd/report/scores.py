"""The report's part on the scores that `saemd.evaluate` has measured."""

from html import escape
from pathlib import Path
from typing import Any

from saemd.quality.published import LOSS_RECOVERED, comparable, remarks, titles
from saemd.quality.records import Record, read_records, reasons
from saemd.quality.spread import summary
from saemd.report import html
from saemd.report.score_table import COLUMNS, TESTS, table_rows, test_remarks, test_rows
from saemd.report.table import number

CORE_COLUMNS = {
    "CE|sae": ("ce_sae", 3),
    "CE|clean": ("ce_clean", 3),
    "CE|zero": ("ce_zero", 3),
    "CE|mean": ("ce_mean", 3),
    "recovered|of zero": ("loss_recovered", 4),
    "recovered|of mean": ("loss_recovered_mean", 4),
    "recovered|outliers clean": ("loss_recovered_outliers_clean", 4),
    "KL": ("kl_sae", 3),
    "FVU": ("fvu", 3),
    "FVU|with outliers": ("fvu_with_outliers", 3),
    "L0": ("l0", 1),
}
DEFINITIONS = {
    "Loss Recovered": "(CE_ablated − CE_sae) / (CE_ablated − CE_clean): the share of the model's loss that the "
    "reconstruction keeps, when it takes the place of the layer's output at every token that is not special. "
    "Ablated: 0 in its place (the headline), or the mean activation, which is the harder reference.",
    "CE, KL": "Cross-entropy of the next token, and the divergence of the patched from the clean model's prediction, "
    "in nats, pooled over tokens.",
    "outliers": "Tokens whose activation is longer than ten medians (massive activations) are left out of training. "
    "They are patched here too; “outliers clean” leaves them as they are, in the reconstruction as in the ablation.",
    "std own": "The score's own standard deviation: of Loss Recovered, over resampled contexts. It says how far the "
    "value depends on the text, not on the seed.",
}


def scores(folder: Path) -> list[str]:
    """HTML of `<run_root>/quality/`; empty where nothing has been measured."""
    path = folder / "quality.json"
    records = read_records(path)
    if not records:
        return []
    spread = summary(records)
    body = ["<h2>Scores</h2>", html.table(COLUMNS, table_rows(records, spread), group=True)]
    body.append(html.paragraph("Larger is better. A score that failed has no value; it is never a zero.", "soft"))
    body += [html.paragraph(f"{remark}.") for remark in remarks(records)]
    body += _missing(records)
    for name, text in (("figure3", "Each score over the measured L0, by start."), ("figure4", "The same by seed.")):
        image = folder / f"{name}.png"
        if image.is_file():
            body.append(html.image(image, text, "wide", narrow=folder / f"{name}_narrow.png"))
    body += _tests(spread["tests"], titles(records))
    core = [record for record in records if record["score"] == "core" and record["values"]]
    if core:
        body += ["<details open><summary>Core measures of each run</summary>", _core_table(core), "</details>"]
        body.append(html.paragraph(_on(core[0]), "soft"))
        body += ["<h3>What they mean</h3>", html.definitions(DEFINITIONS)]
    return body


def _missing(records: list[Record]) -> list[str]:
    items = ""
    for (_, reason), without in reasons(records).items():
        seeds = ["" if record["seed"] is None else f" seed {record['seed']}" for record in without]
        runs = [f"{record['init']} L0 {record['l0']}{seed}" for record, seed in zip(without, seeds, strict=True)]
        head = f"{without[0]['title']}, {without[0]['status']}: {reason} ({', '.join(runs)})"
        items += f"<li>{escape(head)}</li>"
    return [f'<div class="warning"><p><strong>Not measured</strong></p><ul>{items}</ul></div>'] if items else []


def _tests(tests: list[dict[str, Any]], title_of: dict[str, str]) -> list[str]:
    if not tests:
        return []
    body = ["<h3>Do the starts differ?</h3>", html.table(TESTS, test_rows(tests, title_of), group=True)]
    body += [html.paragraph(line) for line in test_remarks(tests)]
    note = (
        "Paired over the cells (target L0, seed) that both starts have. The cells are not independent: seeds of one "
        "start may share their weights, and all use the same text. A small p says that the difference exceeds the "
        "scatter between these cells, not that it would hold on another model or text."
    )
    return [*body, html.paragraph(note, "soft")]


def _core_table(records: list[Record]) -> str:
    rows = [
        [
            record["init"],
            str(record["l0"]),
            str(record["seed"]),
            *(number(record["values"].get(key), digits) for key, digits in CORE_COLUMNS.values()),
        ]
        for record in records
    ]
    return html.table(["init", "L0|target", "seed", *CORE_COLUMNS], rows, group=True)


def _on(record: Record) -> str:
    """The data of the core measures, and whether published figures may be compared with them."""
    data = record["data"]
    text = (
        f"{data['tokens']:,} held-out tokens of {data['corpus']} in {data['contexts']} contexts of "
        f"{data['context_length']}, {data['outliers']} of them outliers; {data['lm']}, layer {data['layer']}."
    )
    if comparable(record):
        return text
    low, high = min(LOSS_RECOVERED.values()), max(LOSS_RECOVERED.values())
    return f"{text} Not comparable with published values ({low:.3f} to {high:.3f}), which are of Gemma-2-2B, layer 12."
