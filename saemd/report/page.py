"""`report.html`: one file with what was compared, the result, and what the result does not show."""

from html import escape

from saemd.files import write_text
from saemd.report import html
from saemd.report.definitions import DEFINITIONS
from saemd.report.figures import draw_all
from saemd.report.scores import scores
from saemd.report.similarity import over_training, shared_start_warning, similarity
from saemd.report.table import count, number, percent
from saemd.runs import SEED_KEYS, Run, flatten
from saemd.stability.root import Outcome
from saemd.stability.siblings import NAMED

OPEN_RUNS = 24  # rows of runs that are shown at once; more are folded away


def write_report(outcome: Outcome, *, every_pair: bool = False) -> None:
    """Draw the figures and write `report.html`; without a record it shows quality alone.

    With `every_pair`, figure 2 of each pair is drawn into the folder, also where the report shows a choice of them.

    Scores that `saemd.evaluate` has measured are shown too. Without a finished run nothing is written.
    """
    if not outcome.runs:
        return
    draw_all(outcome.folder, outcome.records, outcome.snapshots, outcome.recurrence, every_pair)
    models = _values(outcome.runs, "lm.name")
    title = f"Similarity across {outcome.across}" if outcome.across else "Stability over seeds"
    title = f"{title} · {models}" if models else title
    title = "Similarity of SAEs" if outcome.across == NAMED else title
    body = [f"<h1>{escape(title)}</h1>", *_opening(outcome), *shared_start_warning(outcome.records)]
    body += over_training(outcome.folder, outcome.snapshots, outcome.records)
    body += similarity(outcome.folder, outcome.records, outcome.recurrence)
    if outcome.across != NAMED:
        body += scores(outcome.folder.parent / "quality")
        body.append("<h2>Quality of each run</h2>")
        body += html.folded(_quality(outcome.runs), f"{len(outcome.runs)} runs", len(outcome.runs) > OPEN_RUNS)
        body.append(html.paragraph("On held-out activations. Stability means little where the FVU is poor.", "soft"))
    if outcome.records:
        body += ["<h2>What the columns mean</h2>", html.definitions(DEFINITIONS)]
    if outcome.across == NAMED:
        write_text(outcome.folder / "report.html", html.page(title, body))
        return
    body += ["<h2>Configuration</h2>", html.listing(_configuration(outcome.runs))]
    body += ["<h2>Versions</h2>", html.listing(_versions(outcome.runs))]
    write_text(outcome.folder / "report.html", html.page(title, body))


def _named(runs: list[Run]) -> list[str]:
    """What each letter stands for."""
    lead = (
        "SAEs that were named one by one were compared, each two of them: their latents are matched one to one by the "
        "directions they read (encoder) and write (decoder). Of SAEs with unequal numbers of latents, each of the "
        "smaller one gets a partner. They may differ in more than a seed, and chance is the floor."
    )
    head = ["name", "SAE", "latents", "d_in", "L0|reached", "FVU"]
    rows = [
        [run.init, run.config[NAMED], f"{run.d_sae:,}", f"{run.d_in:,}"]
        + [number(run.metrics[key], digits) for key, digits in (("l0", 1), ("fvu", 3))]
        for run in runs
    ]
    note = "L0 and FVU are a run's own, or measured with activations=… on a run's held-out activations."
    return [html.paragraph(lead, "lead"), html.table(head, rows), html.paragraph(note, "soft")]


def _opening(outcome: Outcome) -> list[str]:
    if outcome.across == NAMED:
        return _named(outcome.runs) + _left_out(outcome)
    key = outcome.across or "the seed"
    has_parts = any(record.get("same_documents") is False for record in outcome.records)
    varied = f"{key} and its documents" if has_parts else key
    lead = (
        f"Sparse autoencoders were trained that differ in nothing but {varied}, and the latents of each two were "
        "matched one to one by the directions they read (encoder) and write (decoder). The closer a latent is to its "
        f"partner, the less that feature depends on {key}."
    )
    pairs = f"{len(outcome.records)} {'pair' if len(outcome.records) == 1 else 'pairs'}"
    found = f"{len(outcome.runs)} finished runs, {pairs} of {'runs' if outcome.across else 'seeds'} compared."
    lines = [html.paragraph(lead, "lead"), html.paragraph(found, "soft")]
    if not outcome.records:
        nothing = "Nothing to compare yet: no two finished runs share init, L0 and configuration under two seeds."
        if outcome.across:
            nothing = f"Nothing to compare yet: no two finished runs differ in {key} alone."
        lines.append(f'<div class="warning">{html.paragraph(nothing)}</div>')
    return lines + _left_out(outcome)


def _left_out(outcome: Outcome) -> list[str]:
    left_out = outcome.broken + outcome.remarks
    items = "".join(f"<li>{escape(line)}</li>" for line in left_out)
    return [f'<div class="warning"><p><strong>Left out</strong></p><ul>{items}</ul></div>'] if left_out else []


def _quality(runs: list[Run]) -> str:
    head = ["init", "L0|target", "seed", "L0|reached", "FVU", "explained|variance", "dead", "tokens", "tokens/s"]
    head.append("minutes")
    rows = []
    for run in runs:
        metrics = run.metrics
        dead, seconds = metrics.get("dead_fraction"), metrics.get("seconds")
        rows.append(
            [
                run.label,
                f"{run.l0:g}",
                str(run.seed),
                number(metrics["l0"], 1),
                number(metrics["fvu"], 3),
                number(metrics.get("explained_variance"), 3),
                percent(dead),
                count(metrics.get("tokens")),
                count(metrics.get("tokens_per_second")),
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
        values = dict.fromkeys(str((run.saved.get("cache") or {}).get(key, "–")) for run in runs)
        rows.append((f"cache.{key}", ", ".join(values)))
    return rows


def _versions(runs: list[Run]) -> list[tuple[str, str]]:
    versions_of: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, version in {**(run.saved.get("versions") or {}), "git commit": run.saved.get("git_commit")}.items():
            versions_of.setdefault(name, {})[str(version or "unknown")] = None
    return [(name, ", ".join(versions)) for name, versions in versions_of.items()]


def _values(runs: list[Run], key: str) -> str:
    """The values of one flattened key over all runs, each once."""
    configs = [flatten(run.config) for run in runs]
    return ", ".join(dict.fromkeys(str(config[key]) for config in configs if key in config))
