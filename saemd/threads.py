"""How many CPU threads a process uses: torch's, numba's and the tokenizer's, all by one call."""

from __future__ import annotations

import os

import torch


def use_threads(n: int | None) -> None:
    """Compute with `n` threads; None leaves every library its own number, which is one a core.

    numba's workers are started first: as they start they set OpenMP's number, which is torch's too, to all cores.
    """
    if n is None:
        return
    import numba
    from numba.np.ufunc import parallel

    os.environ["RAYON_NUM_THREADS"] = str(n)  # read when a tokenizer first splits its work
    parallel._launch_threads()
    numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    torch.set_num_threads(n)
