"""`report.html`: one file that says what was compared, what came out, and what it does not show."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from saemd.files import write_text
from saemd.stability import html
from saemd.stability.figures import draw_all, figure2_path
from saemd.stability.records import DEFINITIONS, Record
from saemd.stability.runs import SEED_KEYS, Run, flatten
from saemd.stability.table import number, shares_start

if TYPE_CHECKING:
    from saemd.stability.root import Outcome


def write_report(outcome: Outcome, threshold: float) -> None:
    """Draw the figures of all records and write `report.html`; without a record it shows quality alone.

    Scores that `saemd.evaluate` has measured are shown too.
    """
    from saemd.quality.section import scores

    draw_all(outcome.folder, outcome.records)
    models = _values(outcome.runs, "lm.name")
    title = f"Stability over seeds · {models}" if models else "Stability over seeds"
    body = [f"<h1>{escape(title)}</h1>", *_opening(outcome), *_warning(outcome.records)]
    if outcome.records:
        body += _comparison(outcome, threshold)
    body += scores(outcome.folder.parent / "quality")
    body += ["<h2>Quality of each run</h2>", _quality(outcome.runs)]
    body.append(html.paragraph("On held-out activations. Stability means little where the FVU is poor.", "soft"))
    if outcome.records:
        body += ["<h2>What the columns mean</h2>", html.definitions(DEFINITIONS)]
    body += ["<h2>Configuration</h2>", html.listing(_configuration(outcome.runs))]
    body += ["<h2>Versions</h2>", html.listing(_versions(outcome.runs))]
    write_text(outcome.folder / "report.html", html.page(title, body))


def _opening(outcome: Outcome) -> list[str]:
    lines = [
        html.paragraph(
            "Sparse autoencoders were trained that differ in nothing but the seed, and the latents of each two were "
            "matched one to one by the directions they read (encoder) and write (decoder). The closer a latent is to "
            "its partner, the less that feature depends on the seed.",
            "lead",
        )
    ]
    pairs = len(outcome.records)
    count = f"{len(outcome.runs)} finished runs, {pairs} {'pair' if pairs == 1 else 'pairs'} of seeds compared."
    lines.append(html.paragraph(count, "soft"))
    if not outcome.records:
        nothing = "Nothing to compare yet: no two finished runs share init, L0 and configuration under two seeds."
        lines.append(f'<div class="warning">{html.paragraph(nothing)}</div>')
    left_out = outcome.broken + outcome.remarks
    if left_out:
        items = "".join(f"<li>{escape(line)}</li>" for line in left_out)
        lines.append(f'<div class="warning"><p><strong>Left out</strong></p><ul>{items}</ul></div>')
    return lines


def _warning(records: list[Record]) -> list[str]:
    shared = [record for record in records if shares_start(record)]
    if not shared:
        return []
    items = []
    for init in dict.fromkeys(record["init"] for record in shared):
        mine = [record for record in shared if record["init"] == init]
        parts = [name for name, key in (("decoder", "dec"), ("encoder", "enc")) if mine[0][f"same_start_{key}"]]
        figures = " ".join(
            f"{name.capitalize()}: measured {_range(mine, f'mean_cos_{key}')}, drift {_range(mine, f'drift_{key}')}, "
            f"if apart {_range(mine, f'apart_{key}')}."
            for name, key in (("decoder", "dec"), ("encoder", "enc"))
            if name in parts
        )
        items.append(f"<li><strong>{escape(init)}</strong>, same {' and '.join(parts)}. {escape(figures)}</li>")
    text = html.paragraph(
        "Weights that seeds share have similarity 1.0 before the first step, so a high value says nothing about "
        "convergence. Read it "
        "beside the drift (cosine with the start: how far the latents moved) and beside “if apart”, the value that "
        "the same amount of movement in unrelated directions would leave."
    )
    head = "<p><strong>Some seeds share their starting weights.</strong></p>"
    return [f'<div class="warning">{head}{text}<ul>{"".join(items)}</ul></div>']


def _comparison(outcome: Outcome, threshold: float) -> list[str]:
    records = outcome.records
    body = ["<h2>Similarity, beside drift and chance</h2>", _main_table(records, "")]
    body.append(html.paragraph(f"“Shared”: both cosines above {threshold:g}. * seeds share their start.", "soft"))
    body.append("<details><summary>The same for latents alive in both seeds</summary>")
    body += [_main_table(records, "_alive"), "</details>"]
    body.append("<details><summary>More about the matchings</summary>")
    body += [_detail_table(records), "</details>", "<h2>Over L0</h2>"]
    summary = "Cosines, drift, floor, same partner and shared over the target L0, as in the table above."
    figures = outcome.folder / "figures"
    body.append(html.image(figures / "summary.png", summary, "wide", narrow=figures / "summary_narrow.png"))
    body.append("<h2>Latent by latent</h2>")
    body.append(
        html.paragraph(
            "One dot per latent of the first seed: decoder cosine across, encoder cosine up. Blue where encoder and "
            "decoder chose the same partner, orange where not. A feature has returned where its dot is blue and near "
            "the upper right corner. Dashed: drift from the start; dotted: random floor; cross: if apart."
        )
    )
    for init in dict.fromkeys(record["init"] for record in records):
        images = "".join(
            html.image(figure2_path(outcome.folder, record), f"{_name(record)}: matched cosines of every latent")
            for record in records
            if record["init"] == init
        )
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
            *(_percent(record[key + suffix]) for key in ("same_match", "shared")),
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
            *(_percent(record[key]) for key in shares),
            *(number(record[key], 3) for key in cosines),
        ]
        for record in records
    ]
    return html.table(head, rows, group=True)


def _quality(runs: list[Run]) -> str:
    head = ["init", "L0|target", "seed", "L0|reached", "FVU", "explained|variance", "dead", "tokens", "tokens/s"]
    head.append("minutes")
    rows = []
    for run in runs:
        metrics = run.metrics
        dead, seconds = metrics.get("dead_fraction"), metrics.get("seconds")
        rows.append(
            [
                run.init,
                f"{run.l0:g}",
                str(run.seed),
                number(metrics["l0"], 1),
                number(metrics["fvu"], 3),
                number(metrics.get("explained_variance"), 3),
                _percent(dead),
                _count(metrics.get("tokens")),
                _count(metrics.get("tokens_per_second")),
                number(None if seconds is None else seconds / 60, 1),
            ]
        )
    return html.table(head, rows, group=True)


def _configuration(runs: list[Run]) -> list[tuple[str, str]]:
    """Every key of the runs' configurations with its value, or all its values where the runs differ."""
    keys = dict.fromkeys(key for run in runs for key in flatten(run.config))
    rows = [(key, _values(runs, key)) for key in keys if key not in SEED_KEYS]
    rows.append(("seed", ", ".join(dict.fromkeys(str(run.seed) for run in runs))))
    for key in ("scale", "n_train"):
        found = dict.fromkeys(str((run.saved.get("cache") or {}).get(key, "–")) for run in runs)
        rows.append((f"cache.{key}", ", ".join(found)))
    return rows


def _versions(runs: list[Run]) -> list[tuple[str, str]]:
    kinds: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, version in {**(run.saved.get("versions") or {}), "git commit": run.saved.get("git_commit")}.items():
            kinds.setdefault(name, {})[str(version or "unknown")] = None
    return [(name, ", ".join(found)) for name, found in kinds.items()]


def _values(runs: list[Run], key: str) -> str:
    """The values of one flattened key over all runs, each once."""
    found: dict[str, None] = {}
    for run in runs:
        config: dict[str, Any] = flatten(run.config)
        if key in config:
            found[str(config[key])] = None
    return ", ".join(found)


def _start(record: Record) -> list[str]:
    star = " *" if shares_start(record) else ""
    return [record["init"], str(record["l0"]), ", ".join(str(seed) for seed in record["seeds"]) + star]


def _name(record: Record) -> str:
    return f"{record['init']}, L0 {record['l0']}, seeds {' and '.join(str(seed) for seed in record['seeds'])}"


def _range(records: list[Record], key: str) -> str:
    values = [record[key] for record in records if record[key] is not None]
    if not values:
        return "–"
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _yes(value: bool | None) -> str:
    return "unknown" if value is None else "yes" if value else "no"
