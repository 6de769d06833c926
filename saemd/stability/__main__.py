"""Compare the seeds below a run root, at any time, also in the middle of a sweep.

    saemd stability                                  # run_root=runs
    saemd stability run_root=runs/big shared_threshold=0.8
    saemd stability across=init                      # runs of one seed that differ in this key alone
    saemd stability figures=all                      # figure 2 of every pair, also of many
    saemd stability activations=16_384               # correlate matched latents on so many held-out tokens of the cache
    saemd stability a=mine b=hf://org/repo/folder    # any SAEs, of other libraries too, each by a letter
    saemd stability a=one b=two start=zero out=runs/compared

Writes <run_root>/stability/: stability.json, cells.json, recurrence.json, snapshots.json, pairs/*.npz, figures/*.png
and report.html (one file, no network); with across=<key> the same files to <run_root>/across=<key>/, and of named SAEs
to `out` (comparison/). docs/interoperability.md lists the forms of SAEs that are read.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from saemd.arguments import folder as folder_of
from saemd.arguments import key_values
from saemd.cli import entry, one_line
from saemd.errors import UserError, bad_value
from saemd.remote.urls import CACHE_ROOT, RUN_ROOT, local_folder
from saemd.report.page import write_report
from saemd.report.table import print_outcome
from saemd.runs import Run, fetch_runs
from saemd.stability.activity import HeldOut
from saemd.stability.comparison import SHARED_THRESHOLD
from saemd.stability.root import compare_all, compare_named

KEYS = ("run_root", "shared_threshold", "across", "figures", "activations", "out", "start")
OF_NAMED, OF_ROOT = ("out", "start"), ("run_root", "across")
FIGURES = ("some", "all")
BATCH = 2048  # tokens that are encoded at once


@dataclass(frozen=True)
class Request:
    """What the command asks for."""

    run_root: Path
    threshold: float
    across: str | None
    every_figure: bool
    activations: int  # held-out tokens; 0: none
    named: dict[str, str]  # SAEs by their letter; empty: those below run_root
    out: Path
    start: str | None


def parse(arguments: list[str]) -> Request:
    """`key=value` arguments. Raises `UserError`."""
    defaults = {"run_root": "runs", "shared_threshold": str(SHARED_THRESHOLD), "figures": "some"}
    letters = dict.fromkeys(word[0] for word in arguments if re.match(r"[a-z]=", word))
    given = key_values(arguments, (*KEYS, *letters))
    for key in given.keys() & {*(OF_ROOT if letters else OF_NAMED)}:
        what = "SAEs are named, as a=…" if letters else "no SAEs are named, as a=… b=…"
        raise bad_value(key, given[key], f"{what}; leave it out")
    if len(letters) == 1:
        raise UserError(f"{''.join(letters)}=…: name two SAEs or more, as a=… b=…")
    values = {**defaults, **given}
    try:
        threshold = float(values["shared_threshold"])
    except ValueError:
        remedy = "use a cosine between 0 and 1 (Paulo & Belrose: 0.7)"
        raise bad_value("shared_threshold", values["shared_threshold"], remedy) from None
    if values["figures"] not in FIGURES:
        raise bad_value("figures", values["figures"], "use some (the report's choice of pairs), or all")
    asked = values.get("activations", "0")
    if not re.fullmatch(r"\d[\d_]*", asked):
        raise bad_value("activations", asked, "use a number of held-out tokens, such as 16_384, or leave it out")
    return Request(
        local_folder(RUN_ROOT, values["run_root"]), threshold, values.get("across"), values["figures"] == "all",
        int(asked), {letter: given[letter] for letter in letters},
        Path(folder_of("out", values.get("out", "comparison"))), values.get("start"),
    )  # fmt: skip


def held_out(tokens: int) -> HeldOut:
    """The first `tokens` held-out activations of a run's cache on disk, or all there are if they are fewer."""

    def batches(run: Run) -> Iterator[Tensor]:
        from saemd.activations.config import ActivationsConfig
        from saemd.activations.disk.remote import fetch_named, open_cache

        root = local_folder(CACHE_ROOT, run.config["cache_root"]) / "activations"
        name = f"*-layer{run.config['layer']}-{run.saved['cache_fingerprint'][:12]}"
        fetch_named(root, name)
        folder = next((path.parent for path in root.glob(f"{name}/manifest.json")), None)
        if folder is None:
            raise UserError(f"{run.path}: its activations are not in {root}; saemd cache with its keys writes them")
        cache = open_cache(folder, ActivationsConfig())
        left = tokens
        for x_BD in cache.heldout(BATCH):
            yield x_BD[:left] * cache.scale
            left -= len(x_BD)
            if left <= 0:
                return

    return batches


def main(arguments: list[str]) -> int:
    """Exit code 0; 2 where the input is bad or a run that claims to be finished cannot be read."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    try:
        request = parse(arguments)
        source = held_out(request.activations) if request.activations else None
        if request.named:
            given = request.named, request.out, request.threshold, request.start, source, request.activations
            outcome = compare_named(*given)
        else:
            fetch_runs(request.run_root)
            outcome = compare_all(request.run_root, request.threshold, request.across, source)
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    write_report(outcome, every_pair=request.every_figure)
    print_outcome(outcome, request.run_root)
    return 2 if outcome.broken else 0


if __name__ == "__main__":
    entry(main)
