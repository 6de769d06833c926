"""SAEBench's random draws, the same for every SAE. Imported in SAEBench's environment alone.

SAEBench seeds once for an SAE. From there on each probe's training takes as many draws as it has epochs, which depends
on the SAE; the first SAE's also trains the probes that all share. So the other classes' texts, which it draws for each
probe and each accuracy anew, differ from SAE to SAE, between an ablation and what it is compared with, and with what
was kept from before. Here every such draw begins from the seed: the same texts for all.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from sae_bench.evals.absorption import k_sparse_probing, probing
from sae_bench.evals.sparse_probing import probe_training

from saemd.quality.saebench.replaced import replaced


@contextmanager
def drawn_alike(seed: int) -> Iterator[None]:
    """Within, drawing a probe's texts and training it give the same for the same texts, whatever came before."""

    def alike(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def from_the_seed(*args: Any, **options: Any) -> Any:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return function(*args, **options)

        return from_the_seed

    train = alike(probing.train_multi_probe)
    with (
        replaced(
            probe_training,
            prepare_probe_data=alike(probe_training.prepare_probe_data),
            train_probe_gpu=alike(probe_training.train_probe_gpu),
        ),
        replaced(probing, train_multi_probe=train),
        replaced(k_sparse_probing, train_multi_probe=train),
    ):
        yield
