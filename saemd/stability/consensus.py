"""One SAE of several seeds' SAEs: its latents are those that return in most seeds.

A cluster is a latent with its partners in the other seeds (`Comparison.shared`: one partner by encoder and decoder,
both cosines above the threshold). Clusters are made greedily, the latents that return most often first, and each latent
is in one cluster. The largest clusters become the latents of the consensus, in the order of their size: by default as
many as a seed has, so that latents that return nowhere fill it up where too few return.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from torch import Tensor

from saemd.errors import UserError
from saemd.sae import SAE
from saemd.stability.recurrence import Recurrence

PARAMETERS = {"W_enc", "W_dec", "b_enc", "b_dec"}  # what every SAE has that a consensus can be made of, beside θ


@dataclass(frozen=True)
class Consensus:
    """`sae` for raw activations; `recurrence` [F]: in how many of the other seeds each of its latents returned."""

    sae: SAE
    recurrence: np.ndarray
    seeds: int  # how many there were


def consensus(saes: Sequence[SAE], found: Recurrence, fire_rate_SF: np.ndarray, d_sae: int | None = None) -> Consensus:
    """The consensus of the runs of `found`, whose SAEs, for raw activations, are `saes` in the same order.

    It has `d_sae` latents, by default as many as a seed; there are at least as many clusters. Of clusters of one size
    those that fire most come first. Raises `UserError` for an architecture whose parameters are not W_enc, W_dec,
    b_enc, b_dec and θ alone.
    """
    refuse_others(saes[0])
    clusters = clusters_by_size(found, fire_rate_SF)[: d_sae or found.returns.shape[1]]
    sizes = np.array([len(cluster) for cluster in clusters])
    return Consensus(mean_sae(saes, clusters), sizes - 1, len(saes))


def refuse_others(sae: SAE) -> None:
    """Raise `UserError` where a consensus of such SAEs cannot be made."""
    if others := {name for name, _ in sae.named_parameters()} - PARAMETERS - {"threshold"}:
        raise UserError(
            f"sae={sae.config.name}: has {', '.join(sorted(others))}, of which no consensus is made; "
            "use jumprelu or topk"
        )


def clusters_by_size(found: Recurrence, fire_rate_SF: np.ndarray) -> list[np.ndarray]:
    """Disjoint clusters of all latents, the largest first. Latent i of run s has the number s · F + i.

    A cluster holds at most one latent of each run.
    """
    n, rate = found.returns.size, fire_rate_SF.ravel()
    a, b = found.links.T
    ends = np.concatenate([a, b]), np.concatenate([b, a])
    partners = coo_array((np.ones(len(ends[0]), dtype=np.int8), ends), shape=(n, n)).tocsr()
    is_free, clusters = np.ones(n, dtype=bool), []
    for first in np.lexsort((np.arange(n), -rate, -found.returns.ravel())):
        if is_free[first]:
            own = partners.indices[partners.indptr[first] : partners.indptr[first + 1]]
            cluster = np.sort(np.append(own[is_free[own]], first))
            is_free[cluster] = False
            clusters.append(cluster)
    weights = [(-len(cluster), -rate[cluster].mean(), cluster[0]) for cluster in clusters]
    return [clusters[i] for i in sorted(range(len(clusters)), key=weights.__getitem__)]


@torch.no_grad()
def mean_sae(saes: Sequence[SAE], clusters: Sequence[np.ndarray]) -> SAE:
    """An SAE whose latent k is the mean of cluster k: of unit decoder rows, scaled to unit norm, and of all else."""
    first = saes[0]
    numbers = torch.from_numpy(np.concatenate(clusters))
    owner = torch.repeat_interleave(torch.tensor([len(cluster) for cluster in clusters]))

    def mean(rows: Tensor) -> Tensor:
        """Of rows [S · F, …] of all latents, the mean over each cluster."""
        sums = rows.new_zeros(len(clusters), *rows.shape[1:]).index_add_(0, owner, rows[numbers])
        return sums / torch.bincount(owner).reshape(-1, *[1] * (rows.dim() - 1))

    def of_all(name: str) -> Tensor:
        return torch.cat([sae.get_parameter(name).detach() for sae in saes])

    whole = type(first)(first.d_in, len(clusters), first.config, target_l0=first.target_l0)
    rows = mean(torch.nn.functional.normalize(of_all("W_dec"), dim=1))
    whole.W_dec.copy_(torch.nn.functional.normalize(rows, dim=1))
    whole.W_enc.copy_(mean(torch.cat([sae.W_enc.detach().T for sae in saes])).T)
    whole.b_dec.copy_(torch.stack([sae.b_dec.detach() for sae in saes]).mean(0))
    for name, parameter in whole.named_parameters():
        if name in ("b_enc", "threshold"):
            parameter.copy_(mean(of_all(name)))
    return whole
