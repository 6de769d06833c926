"""The planted dictionary: its frequencies, its correlations, and what tells recovery from agreement."""

from __future__ import annotations

import pytest
import torch

from experiments.planted.common import World, plant, recovered, start, told_apart, train
from saemd.runs import Weights
from saemd.stability import compare
from saemd.training.config import RecipeConfig
from tests.stability_fakes import rows


@pytest.fixture
def planted():
    return plant(40, 64, torch.Generator().manual_seed(0), active=4)


def test_features_follow_zipf_and_fire_together(planted):
    assert planted.features.norm(dim=1).allclose(torch.ones(40))
    rates = planted.rates.sort(descending=True).values
    assert rates[0].item() == pytest.approx(0.5)  # the cap
    assert (rates[9] / rates[19]).item() == pytest.approx(2, rel=0.01)
    x = planted.sample(20_000, torch.Generator().manual_seed(1))
    z = x @ torch.linalg.pinv(planted.features)
    active = z > 0.25
    child = active[:, 1::2]
    joint = (active[:, ::2] & child).float().mean(0)
    apart = active[:, ::2].float().mean(0) * child.float().mean(0)
    assert (joint > apart).float().mean() > 0.9
    again = planted.sample(5, torch.Generator().manual_seed(1))
    assert torch.equal(again, planted.sample(5, torch.Generator().manual_seed(1)))


def test_a_common_start_is_shared_and_not_recovered(planted):
    """a and b hold 20 features in another order, 10 rows of one start, and 10 rows of their own."""
    shared = rows(7, 10, 64)
    a = torch.cat([planted.features[:20], shared, rows(8, 10, 64)])
    b = torch.cat([planted.features[:20].flip(0), shared, rows(9, 10, 64)])
    latents, features = recovered(a, planted, 0.7)
    assert (latents.sum(), features.sum()) == (20, 20)
    shares = told_apart(compare(Weights(a.T, a), Weights(b.T, b)), latents, 0.7)
    assert shares == {"both": 0.5, "shared_alone": 0.25, "recovered_alone": 0.0, "neither": 0.25}


def test_signs_count(planted):
    latents, features = recovered(-planted.features, planted, 0.7)
    assert latents.sum() == features.sum() == 0


def test_the_experiments_train_on_it(planted):
    """experiments/planted: an SAE of each architecture that it uses learns."""
    world = World(planted)
    assert world.held_out.pow(2).sum(1).mean().item() == pytest.approx(1, rel=0.05)
    for architecture in ("topk", "jumprelu"):
        sae = start(world, architecture, 32, 4, "tied", seed=0)
        kept = train(sae, world, RecipeConfig(lr=1e-2), batch=256, steps=40, seed=1, kept=(0, 40))
        assert world.measure(kept[40])["fvu"] < 0.8 * world.measure(kept[0])["fvu"]
