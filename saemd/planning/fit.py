"""What does not fit: disks that are too small, and memory; each with what to change."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from saemd.activations.harvest.write import human
from saemd.planning import costs
from saemd.planning.costs import Need
from saemd.planning.measure import device_of
from saemd.planning.work import Work

HEADROOM = 1.05  # of free disk over what is needed, as the cache's writer asks for


def misfits(work: Work, disk: list[Need], bytes_each: int, on_this_machine: bool = True) -> Iterator[str]:
    """One line for each disk and each memory that is too small. `bytes_each`: of a language model's weight.

    The memory is this machine's, and is left out for work on others.
    """
    yield from _disks(disk)
    if not on_this_machine:
        return
    host, gpu = memory(work, bytes_each)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if (needed := peak(host)) > total:
        yield f"memory: the largest part takes {human(needed)}, this machine has {human(total)}; {_LESS_MEMORY}"
    if gpu and (needed := peak(gpu)) > (on_gpu := torch.cuda.get_device_properties(0).total_memory):
        yield f"GPU memory: the largest part takes {human(needed)}, the GPU has {human(on_gpu)}; {_LESS_MEMORY}"


_LESS_MEMORY = "use a smaller d_sae, batch_size or activations.lm_batch_tokens"


def memory(work: Work, bytes_each: int) -> tuple[dict[str, list[Need]], dict[str, list[Need]]]:
    """By part of the work, on the host and on the GPU, of the job that takes most in each."""
    on_gpu = bool(work.jobs) and device_of(work.jobs[0].config) == "cuda"
    parts: dict[str, list[list[Need]]] = {
        "harvest": [costs.harvest_memory(harvest, bytes_each) for harvest in work.harvests if harvest.left],
        "training": [costs.training_memory(job) for job in work.todo],
    }
    largest = {part: max(needs, key=_sum) for part, needs in parts.items() if needs}
    compared = [costs.comparison_memory(comparison) for comparison in work.comparisons if comparison.pairs]
    host = {} if on_gpu else dict(largest)
    if compared:
        host["comparison"] = max(compared, key=_sum)
    return host, largest if on_gpu else {}


def peak(parts: dict[str, list[Need]]) -> int:
    """Bytes of the part that takes most, with the process itself."""
    return costs.PROCESS + max((_sum(needs) for needs in parts.values()), default=0)


def _sum(needs: list[Need]) -> int:
    return sum(need.bytes for need in needs)


def _disks(needs: list[Need]) -> Iterator[str]:
    by_disk: dict[int, list[Need]] = {}
    for need in needs:
        if need.left and need.place is not None:
            by_disk.setdefault(os.stat(existing(need.place)).st_dev, []).append(need)
    for mine in by_disk.values():
        left, largest = sum(need.left for need in mine), max(mine, key=lambda need: need.left)
        assert largest.place is not None
        free = shutil.disk_usage(existing(largest.place)).free
        if left * HEADROOM > free:
            yield (
                f"disk: {human(left * HEADROOM)} are needed and {existing(largest.place)} has {human(free)} free, most "
                f"of it for {largest.what}; {_less(largest)}"
            )


def _less(need: Need) -> str:
    if need.what.startswith(costs.LOCAL_COPIES):
        return "lower activations.local_gigabytes, or set SAEMD_LOCAL to a folder on a larger disk"
    if "activations" in need.what:
        return "use fewer activations.tokens, or set cache_root to a larger disk"
    if "run" in need.what:
        return "set run_root to a larger disk, or train fewer jobs"
    return "set cache_root (HF_HOME for a model of the hub) to a larger disk"


def existing(folder: Path) -> Path:
    """The folder, or the nearest parent that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())
