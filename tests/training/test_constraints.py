"""The encoder's decay and the decoder's constraints: by their definitions, and every path against the plain one."""

from typing import Any

import pytest
import torch

from saemd.errors import UserError
from saemd.sae.stack import stack
from saemd.sae.starts import unit_rows
from saemd.training import optimizer as optimizer_module
from saemd.training.config import RecipeConfig, check_recipe
from saemd.training.constraints import held
from saemd.training.optimizer import SAEAdam
from saemd.training.schedules import schedule
from saemd.training.stack import optimizer as stack_optimizer
from saemd.training.stack.optimizer import Member, StackAdam
from tests.training.test_optimizer import start, steps

STEPS = 20
RECIPES: dict[str, dict[str, Any]] = {
    "decay": {"encoder_decay": 3.0},
    "decay that ends": {"encoder_decay": 3.0, "encoder_decay_until": 0.5},
    "frozen": {"freeze_decoder_after": 0.0},
    "frozen late": {"freeze_decoder_after": 0.6},
    "frozen encoder": {"freeze_encoder_after": 0.0, "encoder_decay": 3.0},
    "frozen encoder late": {"freeze_encoder_after": 0.6},
    "both frozen": {"freeze_encoder_after": 0.6, "freeze_decoder_after": 0.3},
    "held": {"decoder_cosine": 0.98},
    "all": {"encoder_decay": 3.0, "freeze_decoder_after": 0.6, "decoder_cosine": 0.98},
}


def trained(fast: bool, beta1: float = 0.0, lr: float = 1e-2, **keys):
    """An SAE after `STEPS` steps on random gradients, and their norms."""
    sae, recipe = start(), RecipeConfig(lr=lr, fast=fast, adam_beta1=beta1, lr_warmup_steps=0, **keys)
    plan = schedule(recipe, STEPS)
    return sae, steps(sae, SAEAdam(sae, recipe, plan), STEPS)


@pytest.mark.parametrize("path", ["kernels", "passes", "passes with a mean"])
@pytest.mark.parametrize("name", RECIPES)
def test_every_path_equals_plain(monkeypatch, name, path):
    beta1 = 0.9 if path == "passes with a mean" else 0.0
    plain, norms = trained(False, beta1, **RECIPES[name])
    if path != "kernels":
        monkeypatch.setattr(SAEAdam, "_by_kernels", SAEAdam._by_passes)
        monkeypatch.setattr(optimizer_module, "multiplies_bfloat16", lambda device: True)
    found, found_norms = trained(True, beta1, **RECIPES[name])
    assert found_norms == pytest.approx(norms, rel=1e-5)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(found.state_dict()[key], value, rtol=1e-4, atol=1e-5)
    free, _ = trained(False, beta1)
    assert not torch.equal(plain.W_enc, free.W_enc) or not torch.equal(plain.W_dec, free.W_dec)


@pytest.mark.parametrize("path", ["one by one", "passes"])
def test_each_member_of_a_stack_has_its_own(monkeypatch, path):
    monkeypatch.setattr(stack_optimizer, "multiplies_bfloat16", lambda device: path == "passes")
    members = []
    for keys in ({}, *RECIPES.values()):
        sae, recipe = start(), RecipeConfig(lr=1e-2, lr_warmup_steps=0, **keys)
        plan = schedule(recipe, STEPS)
        optimizer = SAEAdam(sae, recipe, plan)
        members.append(Member(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, plan.lr), recipe))
    starts = torch.stack([start().W_dec.detach()] * len(members))
    saes = [member.optimizer.sae for member in members]
    together = StackAdam(stack(saes), members, STEPS, starts)
    together.join()
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        for parameter in together.whole.parameters():
            grad = torch.randn(parameter[0].shape, generator=generator)
            parameter.grad = torch.empty_like(parameter).copy_(grad)  # the same for all
        together.step()
    for sae, keys in zip(saes, ({}, *RECIPES.values()), strict=True):
        alone, recipe = start(), RecipeConfig(lr=1e-2, fast=False, lr_warmup_steps=0, **keys)
        optimizer = SAEAdam(alone, recipe, plan := schedule(recipe, STEPS))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, plan.lr)
        steps(alone, optimizer, STEPS, after=scheduler.step)
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(sae.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=str(keys))


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_the_decay_is_that_of_adamw(beta1):
    sae, _ = trained(False, beta1, encoder_decay=3.0, grad_clip_norm=1e9)
    other = start()
    groups = [{"params": [other.W_enc], "weight_decay": 3.0}, {"params": [other.b_enc], "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=1e-2, betas=(beta1, 0.999), eps=1e-8)
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        for parameter in other.parameters():
            parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator))
        adam.step()
    for name in ("W_enc", "b_enc"):
        torch.testing.assert_close(sae.get_parameter(name), other.get_parameter(name), rtol=1e-4, atol=1e-5)


def test_the_decay_follows_the_learning_rate_and_ends():
    recipe = RecipeConfig(lr=0.01, encoder_decay=2.0, encoder_decay_until=0.5)
    plan = schedule(recipe, 100)
    assert [plan.encoder_decay(step) for step in (0, 49, 50, 99)] == [2.0, 2.0, 0.0, 0.0]
    sae = start()
    before = sae.W_enc.detach().clone()
    optimizer = SAEAdam(sae, RecipeConfig(lr=0.01, encoder_decay=2.0, fast=False))
    optimizer.param_groups[0]["lr"] = 0.005  # as a scheduler sets it
    for parameter in sae.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(sae.W_enc, before * 0.99)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(("matrix", "other"), [("decoder", "encoder"), ("encoder", "decoder")])
def test_a_frozen_matrix_keeps_its_bits(fast, matrix, other):
    W, W_other, key = f"W_{matrix[:3]}", f"W_{other[:3]}", f"freeze_{matrix}_after"
    always, _ = trained(fast, **{key: 0.0})
    assert torch.equal(always.get_parameter(W), start().get_parameter(W))
    assert not torch.equal(always.get_parameter(W_other), start().get_parameter(W_other))
    late, norms = trained(fast, **{key: 0.6})
    sae, recipe = start(), RecipeConfig(lr=1e-2, fast=fast, lr_warmup_steps=0)
    free_norms = steps(sae, SAEAdam(sae, recipe), 12)
    assert torch.equal(late.get_parameter(W), sae.get_parameter(W))
    assert norms[:12] == free_norms
    assert max(norms[12:]) < 0.8 * min(free_norms), "a frozen gradient is not clipped with the others"


@pytest.mark.parametrize("fast", [False, True])
def test_held_rows_stay_within_their_cosine(fast):
    free, _ = trained(fast)
    sae, _ = trained(fast, decoder_cosine=0.98)
    cosines = {name: (one.W_dec * start().W_dec).sum(1) for name, one in (("free", free), ("held", sae))}
    assert cosines["free"].min() < 0.96
    assert cosines["held"].min() > 0.98 - 1e-5
    assert (sae.W_dec.norm(dim=1) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("fast", [False, True])
def test_a_resumed_run_keeps_its_constraints(fast):
    recipe = RecipeConfig(lr=1e-2, fast=fast, lr_warmup_steps=0, **RECIPES["all"])
    plan, whole, resumed = schedule(recipe, STEPS), start(), start()
    first, second = SAEAdam(whole, recipe, plan), SAEAdam(resumed, recipe, plan)
    for _ in range(2):
        steps(whole, first, STEPS // 2)
        steps(resumed, second, STEPS // 2)
        state = second.state_dict()
        second = SAEAdam(resumed, recipe, plan, start().W_dec)
        second.load_state_dict(state)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_held_takes_the_nearest_row():
    generator = torch.Generator().manual_seed(0)
    rows, starts = (unit_rows(torch.randn(50, 6, generator=generator)) for _ in range(2))
    starts[:10] = unit_rows(rows[:10] + 0.1 * starts[:10])  # near enough
    found = held(rows, starts, 0.8)
    is_near = (rows * starts).sum(1) >= 0.8
    assert 10 <= is_near.sum() < 40
    assert torch.equal(found[is_near], rows[is_near])
    torch.testing.assert_close((found * starts).sum(1)[~is_near], torch.full((int((~is_near).sum()),), 0.8))
    tries = unit_rows(torch.randn(20_000, 6, generator=generator))
    for row, first, mine in zip(rows[~is_near], starts[~is_near], found[~is_near], strict=True):
        allowed = tries[tries @ first >= 0.8]
        assert (allowed @ row).max() <= mine @ row + 1e-5


BAD = [
    ("lr_decay", "step"), ("lr_final", 1.5), ("encoder_decay", -1.0), ("encoder_decay", 1e5),
    ("encoder_decay", float("nan")), ("encoder_decay_until", 2.0), ("freeze_decoder_after", -0.1),
    ("freeze_encoder_after", 1.5),
    ("decoder_cosine", 1.1),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), BAD)
def test_values_outside_their_range(key, value):
    with pytest.raises(UserError, match=rf"recipe.{key}={value}: "):
        check_recipe(RecipeConfig(**{key: value}))
