"""Write the activation cache that `saemd train` would write, and print its path and size.

    saemd cache                             # the defaults' cache
    saemd cache corpus=wiki layer=5 activations.tokens=200_000
    saemd cache threads=1                   # in two shells at the same time: both write this one cache
    torchrun --nproc-per-node=8 -m saemd.cache              # 8 processes, each on a GPU of its own
    srun --ntasks=16 python -m saemd.cache                  # on several machines with one disk

The cache has the same bytes whatever the number of processes (docs/ranks.md). One that is finished is only read.
"""

from pathlib import Path

from saemd.activations.config import ActivationsConfig
from saemd.activations.harvest.open import ensure_cache
from saemd.cli import entry
from saemd.composition import compose_all
from saemd.errors import bad_value
from saemd.preflight import check_caches
from saemd.progress import be_silent
from saemd.ranks import launched, use_own_gpu
from saemd.threads import use_threads


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    ranks = launched()
    if ranks.rank > 0:
        be_silent()
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
        if ranks.world > 1:
            use_own_gpu(ranks.local_rank, config.accelerator)
        cache = ensure_cache(
            config.lm,
            config.layer,
            config.corpus,
            config.activations,
            root,
            accelerator=config.accelerator,
            together=True,
        )
        if ranks.rank == 0:
            print(f"{cache.path}: {cache.n_train:,} + {cache.n_heldout:,} held-out tokens of width {cache.d_in}")
    return 0


if __name__ == "__main__":
    entry(main)
