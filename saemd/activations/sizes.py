"""Sizes in bytes: shown, and compared with the memory that is free."""

from pathlib import Path

import torch

_CGROUP = Path("/sys/fs/cgroup")


def human(size: float) -> str:
    """Bytes in the unit that reads best: 1.2 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still take: of a GPU's memory, or of the machine's and of its control group's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = Path("/proc/meminfo").read_text().splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    below_limit = _below_limit()
    return 1024 * int(kilobytes) if below_limit is None else min(1024 * int(kilobytes), below_limit)


def _below_limit() -> int | None:
    """Bytes left below the memory limit of the process's control group; None where there is no limit."""
    try:
        group = _own_group()
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, StopIteration):  # no control groups of version 2
        return None
    if limit == "max":
        return None
    return max(0, int(limit) - int(used) + int(statistics.get("inactive_file", 0)))  # file pages give way


def _own_group() -> Path:
    own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    return _CGROUP / own.removeprefix("0::").lstrip("/")
