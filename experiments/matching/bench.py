"""The matcher beside scipy and lapx: time, memory and total, each run in a process of its own.

    python experiments/matching/bench.py [n=18432] [d=2304] [spectrum=0] [threads=2] [repetitions=1] [out=bench.json]
        [solvers=saemd,scipy,lapjvh,lapjvr,lapjvs,lapjvx] [kinds=near,half,independent,anisotropic]

`spectrum=-0.25` multiplies axis k of all rows by k^-0.25, as axes of activations decay. The solvers take turns. Runs
are added to those that `out` holds already; the printed table takes medians. lapx's solvers run where `lap` can
be imported. "Cosines" is the time of the matrix products alone (of bytes, where saemd multiplies those), "rest" all
else (for saemd: the choice of candidates, the matching and its proof). Memory is the peak of resident memory above what
it was with the two dictionaries loaded. saemd's result is then checked once more, untimed, against every pair of the
matrix: `excess` is the largest s_ij - u_i - v_j, `gap` how far the mean cosine may lie below the optimum. Linux only
(reads /proc).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from proof import excess  # beside this file
from torch import Tensor

from saemd.stability.matching.byte_cosines import ByteCosines
from saemd.stability.matching.candidates import gather
from saemd.stability.matching.certificate import gap
from saemd.stability.matching.cosines import Cosines, Dictionary
from saemd.stability.matching.hungarian import KEPT, rows_of_one_shape
from saemd.stability.matching.kernels import fastest_first
from saemd.stability.matching.optimum import optimum

SOLVERS = ["saemd", "scipy", "lapjvh", "lapjvr", "lapjvs", "lapjvx"]
KINDS = ["near", "half", "independent", "anisotropic"]
SHARED = 0.55  # of the rows, in `half` and `anisotropic`


def dictionaries(kind: str, n: int, d: int, spectrum: float) -> tuple[Tensor, Tensor]:
    """near: every row returns with noise (cosine 0.995), in another order; half: 55 % do (cosine 0.78), the others are
    independent; independent: none does; anisotropic: as half, in a space whose axes decay like k^-0.5.

    Axis k of all rows is multiplied by k^`spectrum`."""
    generator = torch.Generator().manual_seed(0)
    a_FD, b_FD = (torch.randn(n, d, generator=generator) for _ in range(2))
    for rows_FD in (a_FD, b_FD):
        rows_FD *= torch.arange(1, d + 1) ** (-0.5 if kind == "anisotropic" else spectrum)
    shared = {"near": n, "independent": 0}.get(kind, int(SHARED * n))
    b_FD[:shared].mul_(0.1 if kind == "near" else 0.8).add_(a_FD[:shared])
    return a_FD, b_FD[torch.randperm(n, generator=generator)]


def memory_mb(field: str) -> float:
    """VmRSS (now) or VmHWM (peak since the last reset) of this process."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def timed(blocks: Iterator[np.ndarray], seconds: list[float]) -> Iterator[np.ndarray]:
    """The matcher's own blocks; adds up what the products took, in time and in processor time."""
    while True:
        start, cpu_start = time.perf_counter(), time.process_time()
        block_BF = next(blocks, None)
        seconds[0] += time.perf_counter() - start
        seconds[1] += time.process_time() - cpu_start
        if block_BF is None:
            return
        yield block_BF


def run_saemd(
    a: Dictionary, b: Dictionary, pool: ThreadPoolExecutor, seconds: list[float]
) -> Callable[[], dict[str, Any]]:
    """`match`, with a clock in between; without scipy, should a proof fail."""
    cosines = next(fastest_first(a, b, pool))
    candidates = gather(timed(cosines.blocks(), seconds), len(a.factors), KEPT, pool)
    start, recomputed = time.perf_counter(), [0]
    rows = cosines.rows

    def counted(row_R: np.ndarray) -> np.ndarray:
        recomputed[0] += len(row_R)
        return rows(row_R)

    cosines.rows = counted  # type: ignore[method-assign]
    found = optimum(candidates, cosines)
    solve_seconds = time.perf_counter() - start
    return lambda: {
        "way": type(cosines).__name__,
        "total": float(found.value.sum()),
        "solve_seconds": solve_seconds,
        "recomputed_rows": recomputed[0],
        "gap": gap(found),
        "excess": excess(found, Cosines(a, b, pool).blocks()),
    }


def run_dense(
    solver: str, a: Dictionary, b: Dictionary, pool: ThreadPoolExecutor, seconds: list[float]
) -> Callable[[], dict[str, Any]]:
    n = len(a.factors)
    cost_FF = np.empty((n, n), dtype=np.float64 if solver == "scipy" else np.float32)
    first = 0
    for block_BF in timed(Cosines(a, b, pool).blocks(), seconds):
        np.negative(block_BF, out=cost_FF[first : first + len(block_BF)])
        first += len(block_BF)
    if solver == "scipy":
        from scipy.optimize import linear_sum_assignment as solve
    else:
        solve = getattr(importlib.import_module("lap"), solver)
    start = time.perf_counter()
    row_F, index_F = solve(cost_FF) if solver == "scipy" else solve(cost_FF, return_cost=False)
    solve_seconds = time.perf_counter() - start
    return lambda: {"total": float(-cost_FF[row_F, index_F].sum(dtype=np.float64)), "solve_seconds": solve_seconds}


def run(solver: str, kind: str, n: int, d: int, spectrum: float, threads: int) -> dict[str, Any]:
    """One matching in this process."""
    torch.set_num_threads(threads)
    start = time.perf_counter()
    if solver == "saemd":
        with ThreadPoolExecutor(threads) as pool:  # compiles both ways
            for kernel in (Cosines, ByteCosines):
                cosines = kernel(*rows_of_one_shape(*dictionaries(kind, 600, 20, spectrum)), pool)
                optimum(gather(cosines.blocks(), 600, 16, pool), cosines)
    load_seconds = time.perf_counter() - start
    a_FD, b_FD = dictionaries(kind, n, d, spectrum)
    before = memory_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    products = [0.0, 0.0]
    with ThreadPoolExecutor(threads) as pool:
        start, cpu_start = time.perf_counter(), time.process_time()
        given = (*rows_of_one_shape(a_FD, b_FD), pool, products)
        report = run_saemd(*given) if solver == "saemd" else run_dense(solver, *given)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        peak = memory_mb("VmHWM")
        reported = report()
    return {
        "solver": solver,
        "kind": kind,
        "n": n,
        "d": d,
        "spectrum": spectrum,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "product_seconds": products[0],
        "rest_seconds": seconds - products[0],
        "rest_cpu_seconds": cpu_seconds - products[1],
        "peak_mb": peak,
        "added_mb": peak - before,
        "load_seconds": load_seconds,
        **reported,
        **environment(threads),
    }


def environment(threads: int) -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    modules = {"torch": "torch", "numpy": "numpy", "scipy": "scipy", "numba": "numba", "lapx": "lap"}
    versions = {name: importlib.metadata.version(name) for name, module in modules.items() if find_spec(module)}
    versions["python"] = platform.python_version()
    return {"date": str(date.today()), "processor": processor, "threads": threads, "versions": versions}


def table(runs: list[dict[str, Any]]) -> str:
    """Medians per size, kind and solver."""
    lines = [
        "| n | spectrum | input | solver | runs | cosines s | rest s | rest CPU s | all s | added MB | mean cosine |",
        "| --- " * 11 + "|",
    ]
    for cell in sorted({_cell(r) for r in runs}, key=_order):
        same = [r for r in runs if _cell(r) == cell]
        n, spectrum, kind, solver = cell
        median = {key: statistics.median(r[key] for r in same) for key in same[0] if isinstance(same[0][key], float)}
        cells = [f"{median[key]:.2f}" for key in ("product_seconds", "rest_seconds", "rest_cpu_seconds", "seconds")]
        cells += [f"{median['added_mb']:.0f}", f"{median['total'] / n:.9f}"]
        lines.append(f"| {n} | {spectrum:g} | {kind} | {solver} | {len(same)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(run: dict[str, Any]) -> tuple[int, float, str, str]:
    return run["n"], run.get("spectrum", 0.0), run["kind"], run["solver"]


def _order(cell: tuple[int, float, str, str]) -> tuple[int, float, int, int]:
    n, spectrum, kind, solver = cell
    return n, -spectrum, KINDS.index(kind), SOLVERS.index(solver)


def main(arguments: list[str]) -> None:
    given = dict(argument.split("=", 1) for argument in arguments)
    n, d = int(given.pop("n", 18432)), int(given.pop("d", 2304))
    threads, spectrum = int(given.pop("threads", os.cpu_count() or 1)), float(given.pop("spectrum", 0))
    if "one" in given:
        solver, kind = given["one"].split(",")
        print(json.dumps(run(solver, kind, n, d, spectrum, threads)))
        return
    repetitions = int(given.pop("repetitions", 1))
    solvers, kinds = (
        given.pop(key, ",".join(all_)).split(",") for key, all_ in (("solvers", SOLVERS), ("kinds", KINDS))
    )
    out = Path(given.pop("out", "bench.json"))
    if given:
        raise SystemExit(f"error: {sorted(given)} unknown: see the first lines of {__file__}")
    runs = json.loads(out.read_text()) if out.exists() else []
    for solver in [solver for solver in solvers if solver.startswith("lap") and find_spec("lap") is None]:
        print(f"{solver}: lapx is not installed, left out")
        solvers.remove(solver)
    size = [f"n={n}", f"d={d}", f"spectrum={spectrum}", f"threads={threads}"]
    for kind, _, solver in product(kinds, range(repetitions), solvers):
        command = [sys.executable, __file__, f"one={solver},{kind}", *size]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
        out.write_text("[\n" + ",\n".join(json.dumps(r) for r in runs) + "\n]\n")
        print(json.dumps({key: runs[-1][key] for key in ("solver", "kind", "seconds", "cpu_seconds")}), flush=True)
    print(table(runs))


if __name__ == "__main__":
    main(sys.argv[1:])
