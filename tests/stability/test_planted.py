"""The planted dictionary: its frequencies, its correlations, and what tells recovery from agreement."""

from __future__ import annotations

import pytest
import torch

from saemd.runs import Weights
from saemd.stability import compare
from saemd.stability.planted import plant, recovered, told_apart
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
    start = rows(7, 10, 64)
    a = torch.cat([planted.features[:20], start, rows(8, 10, 64)])
    b = torch.cat([planted.features[:20].flip(0), start, rows(9, 10, 64)])
    latents, features = recovered(a, planted, 0.7)
    assert (latents.sum(), features.sum()) == (20, 20)
    shares = told_apart(compare(Weights(a.T, a), Weights(b.T, b)), latents, 0.7)
    assert shares == {"both": 0.5, "shared_alone": 0.25, "recovered_alone": 0.0, "neither": 0.25}


def test_signs_count(planted):
    latents, features = recovered(-planted.features, planted, 0.7)
    assert latents.sum() == features.sum() == 0
