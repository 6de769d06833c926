"""A short training run of the tiny model: its arguments, its place, and what its command prints."""

from __future__ import annotations

from pathlib import Path

PLACE = Path("init=uniform", "l0=4", "seed=0")
SHORT = ["init=uniform", "seed=0", "tokens=1024"]


def one_error(capsys) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, lines
    return lines[0]


def interrupted(whole: Path, root: Path) -> Path:
    """A copy of the run as a kill leaves it before it is measured."""
    run = root / PLACE
    run.mkdir(parents=True)
    for name in ("config.yaml", "last.ckpt"):
        (run / name).write_bytes((whole / name).read_bytes())
    return run
