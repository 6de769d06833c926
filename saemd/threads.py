"""The number of CPU threads of a process: torch's, numba's and the tokenizer's."""

import os

import torch


def use_threads(n: int | None) -> None:
    """Compute with `n` threads. None leaves each library its own number, one per core.

    numba's workers are started first: when they start, they set OpenMP's number, which torch uses too, to all cores.
    """
    if n is None:
        return
    import numba
    from numba.np.ufunc import parallel

    os.environ["RAYON_NUM_THREADS"] = str(n)  # read when a tokenizer first splits its work
    parallel._launch_threads()
    numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    torch.set_num_threads(n)
