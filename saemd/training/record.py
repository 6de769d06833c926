"""What `config.yaml` says of a run beside its identity, and how a finished run is recognised."""

import importlib.metadata
import platform
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from saemd import __version__
from saemd.activations.registry import describe_source
from saemd.activations.source import Source
from saemd.config import Config
from saemd.runs import METRICS, identify, read_metrics, refuse_another, refuse_foreign, run_dir
from saemd.sae.export import sae_shape


def finished(config: Config) -> dict[str, Any] | None:
    """`metrics.json`'s content of this configuration's run; None where it is still to be trained.

    Needs neither Lightning nor the cached activations, which may have been deleted since. Raises `UserError` where the
    directory holds a run of another configuration, or a damaged one, or is no directory.
    """
    folder = run_dir(config)
    refuse_foreign(folder)
    if not (folder / METRICS).is_file():
        return None
    origin = describe_source(config.lm, config.layer, config.corpus, config.activations, Path(config.cache_root))
    refuse_another(folder, identify(config, origin))
    metrics = read_metrics(folder, ("l0", "target_l0", "fvu", "dead_fraction"))
    sae_shape(folder)
    return metrics


def describe(config: Config, source: Source) -> dict[str, Any]:
    """The content of `config.yaml`, but for the start's digests."""
    packages = ("torch", "lightning", "transformers", "numpy", "scipy")
    return {
        **identify(config, source.origin),
        "cache": source.summary(),
        "versions": {
            "saemd": __version__,
            "python": platform.python_version(),
            **{p: importlib.metadata.version(p) for p in packages},
        },
        "git_commit": _git_commit(),
    }


@lru_cache
def _git_commit() -> str | None:
    """The commit of the source tree this package runs from, when this was first asked; None without one, or git.

    An installed package may lie in the work tree of another project, whose commit says nothing of it.
    """
    this = Path(__file__)
    commands = (["ls-files", "--error-unmatch", this.name], ["rev-parse", "HEAD"])
    try:
        tracked, head = (
            subprocess.run(["git", "-C", str(this.parent), *command], capture_output=True, text=True, check=False)
            for command in commands
        )
    except FileNotFoundError:
        return None
    return head.stdout.strip() if tracked.returncode == head.returncode == 0 else None
