"""SAEBench's random draws, the same for every SAE.

SAEBench sets the seed once for an SAE. After that each probe's training uses as many draws as it has epochs, which
depends on the SAE, and the first SAE also trains the probes that all share. For each probe and each accuracy SAEBench
draws the other classes' texts anew. So these texts would depend on the SAE, on what was kept from an earlier run, and
on whether it is an ablation or its baseline. Here every such draw starts from the seed: the same texts for all.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from sae_bench.evals.absorption import k_sparse_probing, probing
from sae_bench.evals.sparse_probing import probe_training


@contextmanager
def drawn_alike(seed: int) -> Iterator[None]:
    """Within, the draw of a probe's texts and its training do not depend on anything that was drawn before."""

    def alike(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def from_the_seed(*args: Any, **options: Any) -> Any:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return function(*args, **options)

        return from_the_seed

    train = alike(probing.train_multi_probe)
    with (
        patch.multiple(
            probe_training,
            prepare_probe_data=alike(probe_training.prepare_probe_data),
            train_probe_gpu=alike(probe_training.train_probe_gpu),
        ),
        patch.multiple(probing, train_multi_probe=train),
        patch.multiple(k_sparse_probing, train_multi_probe=train),
    ):
        yield
