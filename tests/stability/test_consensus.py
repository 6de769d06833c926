"""The consensus of several seeds: what returns is kept, what does not return is left out first."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from saemd.errors import UserError
from saemd.sae import ARCHITECTURES, JumpReLUSAE
from saemd.stability import compare
from saemd.stability.consensus import Consensus, clusters_by_size, consensus
from saemd.stability.recurrence import Recurrence

S, F, D, PLANTED = 5, 40, 32, 24


def unit(rows: torch.Tensor) -> torch.Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


def seeds(first: int) -> list[JumpReLUSAE]:
    """SAEs that all hold the same 24 rows under noise, each in an order of its own, and 16 rows of their own."""
    truth = unit(torch.randn(PLANTED, D, generator=torch.Generator().manual_seed(0)))
    saes = []
    for seed in range(first, first + S):
        generator = torch.Generator().manual_seed(seed)
        noisy = unit(truth + 0.08 * torch.randn(PLANTED, D, generator=generator))
        rows = torch.cat([noisy, unit(torch.randn(F - PLANTED, D, generator=generator))])
        order = torch.randperm(F, generator=generator)
        sae = JumpReLUSAE(D, F)
        with torch.no_grad():
            sae.W_dec.copy_(rows[order])
            sae.W_enc.copy_(2 * rows[order].T)
            sae.threshold.copy_(torch.where(order < PLANTED, 0.5, 2.0))
        saes.append(sae)
    return saes


def recurrence_of(saes: list[JumpReLUSAE]) -> Recurrence:
    returns, links = np.zeros((S, F), dtype=np.int16), []
    for a in range(S):
        for b in range(a + 1, S):
            comparison = compare(saes[a], saes[b])
            of_a = np.flatnonzero(comparison.shared(0.7))
            of_b = comparison.dec.index[of_a]
            returns[a, of_a] += 1
            returns[b, of_b] += 1
            links.append(np.stack([a * F + of_a, b * F + of_b], axis=1))
    return Recurrence([], returns, np.full(S, S - 1, dtype=np.int16), np.concatenate(links))


def made(first: int) -> Consensus:
    saes = seeds(first)
    return consensus(saes, recurrence_of(saes), np.full((S, F), 0.1))


def test_what_returns_is_kept_and_comes_first():
    found = made(10)
    assert found.recurrence[:PLANTED].tolist() == [S - 1] * PLANTED
    assert (found.recurrence[PLANTED:] < S - 1).all()
    truth = unit(torch.randn(PLANTED, D, generator=torch.Generator().manual_seed(0)))
    cosines = (truth @ found.sae.W_dec.detach()[:PLANTED].T).numpy()
    rows, columns = linear_sum_assignment(-cosines)
    single = (truth @ seeds(10)[0].W_dec.detach().T).max(1).values.mean().item()
    assert cosines[rows, columns].mean() > max(0.97, single)
    assert torch.allclose(found.sae.get_parameter("threshold")[:PLANTED], torch.tensor(0.5))
    assert torch.allclose(found.sae.W_dec.norm(dim=1), torch.ones(F), atol=1e-5)


def test_two_consensus_saes_agree_more_than_two_seeds():
    a, b = made(10), made(20)
    returned = compare(a.sae, b.sae).shared(0.7)
    assert returned[:PLANTED].all()
    assert returned.mean() > compare(seeds(10)[0], seeds(20)[0]).shared(0.7).mean() - 1e-9


def test_a_cluster_has_one_latent_of_each_run_and_each_latent_one_cluster():
    saes = seeds(3)
    clusters = clusters_by_size(recurrence_of(saes), np.random.default_rng(0).random((S, F)))
    everyone = np.concatenate(clusters)
    assert np.array_equal(np.sort(everyone), np.arange(S * F))
    assert all(len(set(cluster // F)) == len(cluster) for cluster in clusters)
    assert [len(cluster) for cluster in clusters] == sorted([len(cluster) for cluster in clusters], reverse=True)


def test_what_fires_more_comes_first_among_equals():
    saes, rate = seeds(3), np.full((S, F), 0.1)
    found = recurrence_of(saes)
    best = clusters_by_size(found, rate)[5]
    rate.ravel()[best] = 0.9
    assert np.array_equal(clusters_by_size(found, rate)[0], best)


def test_other_architectures_are_refused():
    sae = ARCHITECTURES["gated"](D, F)
    with pytest.raises(UserError, match=r"sae=gated: has .* use jumprelu or topk"):
        consensus([sae, sae], Recurrence([], np.zeros((2, F)), np.ones(2), np.zeros((0, 2), int)), np.zeros((2, F)))
