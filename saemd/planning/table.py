"""The plan as text of at most 100 columns: the work, the bytes, and what was assumed."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from saemd.activations.harvest.write import human
from saemd.planning import costs
from saemd.planning.costs import Need
from saemd.planning.estimate import Times
from saemd.planning.fit import peak
from saemd.planning.work import Comparison, Harvest, Job, Work
from saemd.progress import duration
from saemd.runs import run_name

WIDTH = 100
LONG = 48 * 3600.0  # seconds from which times are given in days
MOST_JOBS = 40  # rows; of longer sweeps the first ones are shown


def print_plan(
    work: Work, times: Times, disk: list[Need], host: dict[str, list[Need]], gpu: dict[str, list[Need]], how: str
) -> None:
    """Print all of it. `how` says where the times come from."""
    console = Console(width=WIDTH, highlight=False)
    console.print(_heading(work), markup=False)
    console.print(_work(work, times))
    console.print(_disk(disk))
    for name, parts in (("memory", host), ("GPU memory", gpu)):
        if parts:
            console.print(_memory(name, parts))
    for line in (*_remarks(work), how):
        console.print(line, markup=False, style="dim")


def flops(value: float) -> str:
    """`25.4 TFLOP`."""
    for unit in ("", "M", "G", "T", "P", "E"):
        if value < 1000 or unit == "E":
            return f"{value:,.3g} {unit}FLOP"
        value /= 1e6 if unit == "" else 1e3
    raise AssertionError


def _heading(work: Work) -> str:
    finished = sum(job.is_finished for job in work.jobs)
    begun = sum(0 < job.done < job.steps for job in work.jobs)
    states = [f"{n} {what}" for n, what in ((finished, "finished"), (begun, "interrupted")) if n]
    count = f"{len(work.jobs)} {'job' if len(work.jobs) == 1 else 'jobs'}"
    shapes = dict.fromkeys(f"{job.harvest.d_in:,} → {job.d_sae:,} latents" for job in work.jobs)
    names = dict.fromkeys(
        f"{h.model.config.name}{'' if h.model.has_weights else ' (not on this machine yet)'}" for h in work.harvests
    )
    left = f" ({', '.join(states)})" if states else ""
    return f"{count}{left} · {', '.join(names)} · {', '.join(shapes)}"


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(columns[0], overflow="fold")
    for column in columns[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _work(work: Work, times: Times) -> Table:
    table = _table("work", "tokens left", "FLOPs", "time")
    for harvest, seconds in zip(work.harvests, times.harvests, strict=True):
        table.add_row(_harvest(harvest), f"{harvest.left:,}", flops(costs.harvest_flops(harvest)), _time(seconds))
    for job, seconds in [*zip(work.jobs, times.jobs, strict=True)][:MOST_JOBS]:
        table.add_row(_job(job), f"{job.tokens_left:,}", flops(costs.training_flops(job)), _time(seconds))
    if len(work.jobs) > 1:
        table.add_section()
        tokens, total = sum(job.tokens_left for job in work.jobs), sum(map(costs.training_flops, work.jobs))
        table.add_row("all training", f"{tokens:,}", flops(total), _time(_sum(times.jobs)))
    for comparison, seconds in zip(work.comparisons, times.comparisons, strict=True):
        table.add_row(_comparison(comparison), "", "", _time(seconds))
    table.add_section()
    if times.is_complete:
        table.add_row("everything", "", "", _time(times.known))
    elif times.known:
        table.add_row("everything whose time is known", "", "", _time(times.known))
    return table


def _harvest(harvest: Harvest) -> str:
    name = f"harvest layer {harvest.config.layer}"
    if not harvest.left:
        return f"{name}: {'there already' if harvest.done else 'not needed'}"
    begun = f", {harvest.done:,} tokens there" if harvest.done else ""
    length, text = harvest.config.activations.context_length, harvest.left * costs.BYTES_PER_TOKEN
    return f"{name}: {harvest.contexts:,} contexts of {length:,}, about {human(text)} of text{begun}"


def _job(job: Job) -> str:
    state = "finished" if job.is_finished else f"{job.left:,} steps"
    begun = f", {job.done / job.steps:.0%} done" if job.done and not job.is_finished else ""
    return f"train {run_name(job.config)}: {state}{begun}"


def _comparison(comparison: Comparison) -> str:
    pairs = f"{comparison.pairs} {'pair' if comparison.pairs == 1 else 'pairs'}"
    return f"compare {pairs} of seeds: {comparison.matchings} matchings of {comparison.d_sae:,} × {comparison.d_in:,}"


def _disk(needs: list[Need]) -> Table:
    table = _table("disk", "bytes", "there", "to come")
    for need in needs:
        place = "" if need.place is None else f", {_short(need.place)}"
        table.add_row(f"{need.what}{place}", human(need.bytes), human(need.here), human(need.left))
    table.add_section()
    table.add_row("everything", *(human(sum(values)) for values in _columns(needs)))
    return table


def _columns(needs: list[Need]) -> list[list[int]]:
    return [[n.bytes for n in needs], [n.here for n in needs], [n.left for n in needs]]


def _memory(name: str, parts: dict[str, list[Need]]) -> Table:
    table = _table(name, "bytes")
    for part, needs in parts.items():
        for need in needs:
            table.add_row(f"{part}: {need.what}", human(need.bytes))
    table.add_section()
    table.add_row("largest part, with the process itself", human(peak(parts)))
    return table


def _remarks(work: Work) -> list[str]:
    lines = []
    for harvest in work.harvests:
        if harvest.left:
            layers, length = f"layers 0 to {harvest.config.layer}", harvest.config.activations.context_length
            each = harvest.model.flops_per_token(harvest.config.layer, length)
            lines.append(
                f"Harvest: {flops(each)} a token = 2 · weights of {layers} + 4 · {length:,} · attention width."
            )
    if work.todo:
        products = dict.fromkeys(f"{2 * costs.sae_products(job.config.sae):.3g}" for job in work.todo)
        each = f"{' or '.join(products)} · d_in · d_sae FLOPs a token, as x needs no gradient"
        lines.append(f"Training: {each}; a fast twin on a CPU does fewer.")
    largest = max(work.comparisons, key=costs.fallback_bytes, default=None)
    if largest and largest.pairs:
        matrix = human(costs.fallback_bytes(largest))
        lines.append(f"Comparison: scipy's n × n matrix would take {matrix}, where the fast matching finds no proof.")
    return [*dict.fromkeys(lines)]  # harvests of one layer, on different texts, have the same line


def _short(path: Path) -> str:
    text, home = str(path), str(Path.home())
    return f"~{text[len(home) :]}" if text.startswith(f"{home}/") else text


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return duration(seconds) if seconds < LONG else f"{seconds / 86_400:,.1f} days"


def _sum(values: list[float | None]) -> float | None:
    return None if None in values else sum(value for value in values if value is not None)
