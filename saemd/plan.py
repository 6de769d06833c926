"""Say what a training command would cost, before anything runs: tokens, FLOPs, bytes and time.

    saemd plan -m init=mirror,uniform seed=24,42    # what saemd train with the same words would do
    saemd plan --no-measure tokens=16_000_000       # without times
    saemd plan -m experiment=paper init=mirror,uniform seed=24,42 --tflops=400 --disk-gbps=2    # for another machine

Times come from a measurement of about 20 seconds on this machine, or from rates: --tflops (10¹² FLOP/s), of which
--efficiency (0.3) is reached, and --disk-gbps (0.5; 10⁹ bytes/s). Nothing is fetched or written. The exit code is 2
where something does not fit, with a line on each.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from saemd.cli import entry
from saemd.composition import compose_all, is_sweep
from saemd.config import Config
from saemd.errors import UserError, bad_value
from saemd.remote.urls import url_of

NUMBERS = ("--tflops", "--disk-gbps", "--efficiency")
NO_MEASURE = "--no-measure"


@dataclass(frozen=True)
class Request:
    """The command's own flags, and the jobs of the training command."""

    configs: list[Config]
    is_sweep: bool
    measures: bool
    numbers: dict[str, float]


def parse(arguments: Sequence[str]) -> Request:
    """Take the flags out, and compose the rest as `saemd train` does. Raises `UserError`."""
    words, numbers, measures = [], {}, True
    left = iter(arguments)
    for word in left:
        flag, equals, value = word.partition("=")
        if word == NO_MEASURE:
            measures = False
        elif flag in NUMBERS:
            numbers[flag] = _number(flag, value if equals else next(left, ""))
        elif word.startswith("--") and word != "--multirun":
            raise UserError(f"{word}: the flags are {', '.join((*NUMBERS, NO_MEASURE))}; keys are key=value")
        else:
            words.append(word)
    if numbers.get("--efficiency", 1.0) > 1:
        raise bad_value("--efficiency", numbers["--efficiency"], "use a share of the rate, from above 0 to 1")
    if "--efficiency" in numbers and "--tflops" not in numbers:
        raise bad_value("--efficiency", numbers["--efficiency"], "a share of --tflops; give both, or neither")
    return Request(compose_all(words), is_sweep(words), measures, numbers)


def _number(flag: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise bad_value(flag, text, "use a positive number")
    return value


def plan(request: Request) -> list[str]:
    """Print the plan; returns a line for each thing that does not fit."""
    from saemd.planning import costs, estimate, fit
    from saemd.planning.measure import dtype_of
    from saemd.planning.table import print_plan
    from saemd.planning.work import find_work
    from saemd.preflight import check_inputs, check_settings
    from saemd.threads import use_threads

    check_settings(request.configs)
    for config in request.configs:
        for key in ("run_root", "cache_root"):
            if url := url_of(Path(getattr(config, key))):
                raise bad_value(key, url, "a plan is about this machine's disk; leave it out, or name a folder")
    check_inputs(request.configs)
    use_threads(request.configs[0].threads)
    work = find_work(request.configs, request.is_sweep)
    numbers = request.numbers
    rates = estimate.Rates(
        numbers["--tflops"] * 1e12 if "--tflops" in numbers else None,
        numbers.get("--efficiency", estimate.EFFICIENCY),
        numbers.get("--disk-gbps", estimate.DISK_GBPS) * 1e9,
    )
    disk = list(costs.disk(work.harvests, work.jobs))
    is_chosen = request.configs[0].activations.lm_dtype != "auto"  # else it depends on what is faster
    bytes_each = dtype_of(request.configs[0]).itemsize if request.measures or is_chosen else costs.FLOAT
    wrong = list(fit.misfits(work, disk, bytes_each))
    if rates.flops:
        times, how = estimate.by_rates(work, rates), (
            f"Times: estimates by {rates.flops / 1e12:g} TFLOP/s, of which {rates.efficiency:.0%} are reached, and "
            f"{rates.disk / 1e9:g} GB/s of disk. What follows no such rate, as the comparison, is left open."
        )  # fmt: skip
    elif request.measures:
        times, how = estimate.measured(work, rates), (
            "Times: from short samples on this machine, beside what else runs on it now; without fetching, W&B, and "
            f"the {estimate.STARTING:.0f} seconds or so in which the program is loaded."
        )  # fmt: skip
    else:
        times, how = estimate.unknown(work), f"Times: not measured ({NO_MEASURE})."
    print_plan(work, times, disk, *fit.memory(work, bytes_each), how)
    return wrong


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    wrong = plan(parse(arguments))
    for line in wrong:
        print(f"does not fit this machine: {line}", file=sys.stderr)
    return 2 if wrong else 0


if __name__ == "__main__":
    entry(main)
