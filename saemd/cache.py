"""Write the activation cache that `saemd train` would write, and print its path and size.

    saemd cache                             # the defaults' cache
    saemd cache corpus=wiki layer=5 activations.tokens=200_000

A cache that is finished already is only read.
"""

from __future__ import annotations

from pathlib import Path

from saemd.activations.config import ActivationsConfig
from saemd.activations.harvest import ensure_cache
from saemd.cli import entry
from saemd.composition import compose_all
from saemd.errors import bad_value
from saemd.preflight import check_caches
from saemd.threads import use_threads


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    configs = compose_all(arguments)
    for config in configs:
        if not isinstance(config.activations, ActivationsConfig):
            name = getattr(config.activations, "name", None)
            raise bad_value("activations", name, "it keeps no cache of all activations; leave it out")
    check_caches(configs)
    for config in configs:
        use_threads(config.threads)
        root = Path(config.cache_root)
        assert isinstance(config.activations, ActivationsConfig)
        cache = ensure_cache(
            config.lm, config.layer, config.corpus, config.activations, root, accelerator=config.accelerator
        )
        print(f"{cache.path}: {cache.n_train:,} + {cache.n_heldout:,} held-out tokens of width {cache.d_in}")
    return 0


if __name__ == "__main__":
    entry(main)
