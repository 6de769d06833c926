"""Schedules, pooled metrics and one step's order, on made-up activations."""

import pytest
import torch

from saemd.errors import UserError
from saemd.sae import ARCHITECTURES, JumpReLUConfig, Progress
from saemd.sae.measures import Pooled
from saemd.training.config import RecipeConfig, check_recipe
from saemd.training.schedules import schedule
from tests.sae.test_jumprelu import batch, random_sae


def test_paper_schedules_are_those_of_table_1():
    plan, sae = schedule(RecipeConfig(), 500_000_000 // 2048), JumpReLUConfig()
    assert plan.lr_warmup == 1000
    assert plan.lr_decay_start == plan.steps - plan.steps // 5
    assert [plan.lr(0), plan.lr(500), plan.lr(1000), plan.lr(plan.lr_decay_start - 1)] == [0, 0.5, 1, 1]
    assert plan.lr(plan.steps - 1) == pytest.approx(0, abs=1e-4)
    assert [sae.coefficient(Progress(step, plan.steps)) for step in (0, 2500, 5000, 200_000)] == [0, 0.5, 1, 1]


def test_short_runs_take_fractions():
    plan = schedule(RecipeConfig(), 500)
    assert (plan.lr_warmup, plan.lr_decay_start) == (25, 400)
    assert [JumpReLUConfig().coefficient(Progress(step, 500)) for step in (0, 25, 50)] == [0, 0.5, 1]


def test_the_learning_rate_falls_as_asked():
    linear, cosine = (schedule(RecipeConfig(lr_decay=shape, lr_final=0.1), 1000) for shape in ("linear", "cosine"))
    assert [linear.lr(step) for step in (799, 800, 900, 1000)] == pytest.approx([1, 1, 0.55, 0.1])
    assert [cosine.lr(step) for step in (799, 800, 900, 1000)] == pytest.approx([1, 1, 0.55, 0.1])
    assert cosine.lr(850) == pytest.approx(0.1 + 0.9 * (1 + 0.5**0.5) / 2)
    assert [schedule(RecipeConfig(), 1000).lr(step) for step in range(800, 1000)] == [
        i / 200 for i in range(200, 0, -1)
    ]


def test_the_target_falls_to_l0():
    plan = schedule(RecipeConfig(l0_start=3.0, l0_fall_fraction=0.4), 1000)
    assert [plan.l0_factor(step) for step in (0, 100, 200, 400, 999)] == [3.0, 2.5, 2.0, 1.0, 1.0]
    assert {schedule(RecipeConfig(), 1000).l0_factor(step) for step in range(1000)} == {1.0}
    assert plan.at(100) == Progress(100, 1000, 2.5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_aims_at_the_target_of_the_step(architecture):
    """A target of 4 with factor 3 is a target of 12."""
    outcomes = []
    for target, factor in ((4, 3.0), (12, 1.0), (4, 1.0)):
        sae = ARCHITECTURES[architecture](12, 40, target_l0=target)
        with torch.no_grad():
            for parameter in sae.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        loss = sae.objective(batch(), Progress(500, 1000, factor))
        outcomes.append((loss.total.item(), loss.l0.item(), {name: b.tolist() for name, b in sae.named_buffers()}))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0] != outcomes[2]


def test_fraction_one_never_shortens():
    with pytest.raises(UserError, match=r"recipe.lr_warmup_steps=1000: a run of 500 steps"):
        schedule(RecipeConfig(lr_warmup_fraction=1.0), 500)
    with pytest.raises(UserError, match=r"sae.sparsity_warmup_steps=5000: a run of 500 steps"):
        JumpReLUConfig(sparsity_warmup_fraction=1.0).check(500, 400)


@pytest.mark.parametrize(("key", "value"), [("lr", -1.0), ("adam_beta1", -0.1), ("adam_beta2", 1.0), ("l0_start", 0.5)])
def test_recipe_values_outside_their_range(key, value):
    with pytest.raises(UserError, match=rf"recipe.{key}={value}: "):
        check_recipe(RecipeConfig(**{key: value}))


@pytest.mark.parametrize(("key", "value"), [("bandwidth", -1.0), ("step_on", "both"), ("sparsity_coefficient", -1.0)])
def test_jumprelu_values_outside_their_range(key, value):
    with pytest.raises(UserError, match=rf"sae.{key}={value}: "):
        JumpReLUConfig(**{key: value}).check(500, 400)


def test_metrics_are_pooled_over_unequal_batches():
    sae, x = random_sae(threshold=0.3), batch(100)
    pooled = Pooled(12, 40)
    for part in (x[:7], x[7:50], x[50:]):
        pooled.update(sae, part)
    result = pooled.result()
    z = sae.encode(x)
    error = sae.decode(z) - x
    variance = (x - x.mean(0)).pow(2).sum()
    assert result.tokens == 100
    assert result.fvu == pytest.approx((error.pow(2).sum() / variance).item(), rel=1e-5)
    assert result.explained_variance == pytest.approx(
        1 - ((error - error.mean(0)).pow(2).sum() / variance).item(), rel=1e-5
    )
    assert result.l0 == pytest.approx((z != 0).float().sum(1).mean().item())
    assert torch.equal(result.alive, (z != 0).any(0))
    for latent in (0, 7, 39):
        without = z.clone()
        without[:, latent] = 0
        rise = ((sae.decode(without) - x).pow(2).sum() - error.pow(2).sum()) / variance
        assert result.ablation_fvu[latent].item() == pytest.approx(rise.item(), rel=1e-4, abs=1e-6)
    assert result.dead_fraction == pytest.approx(1 - (z != 0).any(0).float().mean().item())


def test_a_mean_predictor_explains_nothing():
    sae, x = random_sae(threshold=1e9), batch(500)
    with torch.no_grad():
        sae.b_dec.copy_(x.mean(0))
    pooled = Pooled(12, 40)
    pooled.update(sae, x)
    assert pooled.result().fvu == pytest.approx(1, abs=1e-6)
    assert pooled.result().explained_variance == pytest.approx(0, abs=1e-6)
