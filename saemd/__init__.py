"""saemd: sparse autoencoders, and whether their features return under another seed.

`compose`, `train`, `compare` and `load_sae` are described in `saemd.api`. They are imported when they are first used,
so that `import saemd` is quick.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# How often a thread that waits for the others looks again before it gives its core away; torch's OpenMP reads it when
# it is loaded. With the default, seven times as often, a step beside another busy process takes 138 ms instead of
# 107 ms; with the machine to itself it takes 44 ms in both cases.
os.environ.setdefault("GOMP_SPINCOUNT", "40000")

if TYPE_CHECKING:
    from saemd.api import compare, compose, compose_sweep, train
    from saemd.config import Config
    from saemd.errors import UserError
    from saemd.runs import Run
    from saemd.sae import SAE, load_sae
    from saemd.stability import Comparison

__version__ = "0.1.0"
__all__ = [
    "SAE", "Comparison", "Config", "Run", "UserError", "__version__", "compare", "compose", "compose_sweep", "load_sae",
    "train",
]  # fmt: skip

_MODULES = {
    "compare": "saemd.api",
    "compose": "saemd.api",
    "compose_sweep": "saemd.api",
    "train": "saemd.api",
    "Config": "saemd.config",
    "UserError": "saemd.errors",
    "Run": "saemd.runs",
    "SAE": "saemd.sae",
    "load_sae": "saemd.sae",
    "Comparison": "saemd.stability",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
