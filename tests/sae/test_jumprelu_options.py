"""JumpReLU's options of Anthropic's January 2025 update: gradients by hand, and what trains by the plain loss."""

import copy
from typing import Any

import pytest
import torch

from saemd.errors import UserError
from saemd.sae import JumpReLUConfig, JumpReLUSAE, Progress
from saemd.sae.jumprelu import Step
from saemd.sae.stack import stack
from saemd.sae.twins import fast_twin
from tests.sae.test_jumprelu import AT, WIDTH, batch, random_sae


def grads_of(sae: JumpReLUSAE) -> dict[str, torch.Tensor]:
    sae.zero_grad()
    sae.objective(batch(), AT).total.backward()
    return {name: p.grad.clone() for name, p in sae.named_parameters() if p.grad is not None}


def test_a_step_that_trains_the_encoder_depends_on_the_distance_alone():
    """∂/∂s = −∂/∂θ, one by one."""
    s = torch.tensor([[0.50, 0.54, 0.46, 0.44, 0.56]], requires_grad=True)
    theta = torch.full((5,), 0.5, requires_grad=True)
    Step.apply(s, theta, WIDTH, True).sum().backward()
    assert s.grad is not None
    assert theta.grad is not None
    torch.testing.assert_close(s.grad[0], torch.tensor([10.0, 10, 10, 0, 0]))
    torch.testing.assert_close(s.grad[0], -theta.grad)


def test_sparsity_trains_the_encoder_only_where_asked():
    """The difference of the two gradients is that of λ·(L0/target − 1)² by the biases, as θ has it, negated."""
    alone, everything = grads_of(random_sae()), grads_of(random_sae(step_gradient="all"))
    for name in ("W_dec", "b_dec", "threshold"):
        torch.testing.assert_close(everything[name], alone[name])
    sae, x = random_sae(), batch()
    with torch.no_grad():
        pre_BF = sae.pre_activations(x)
        near_BF = (pre_BF - sae.threshold).abs() < WIDTH / 2
        l0 = (pre_BF > sae.threshold).float().sum(1).mean()
    slope = 0.7 * 2 * (l0 / 5 - 1) / 5 / len(x) / WIDTH
    torch.testing.assert_close(everything["b_enc"] - alone["b_enc"], slope * near_BF.sum(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        everything["W_enc"] - alone["W_enc"], slope * x.T @ near_BF.float(), rtol=1e-4, atol=1e-5
    )


def test_the_tanh_term_and_its_coefficient():
    sae, x = random_sae(sparsity="tanh", tanh_scale=0.5, seek_l0=0.02), batch()
    sae.seeking.fill_(2.0)
    loss = sae.objective(x, AT)
    z_BF = sae.latents(x)
    term = torch.tanh(0.5 * 12**0.5 * z_BF).sum(1).mean()
    torch.testing.assert_close(loss.total, loss.reconstruction + 0.7 * 2.0 * term)
    torch.testing.assert_close(loss.l0, (z_BF != 0).float().sum(1).mean())
    assert (sae.seeking.item() > 2.0) == (loss.l0.item() > 5)
    assert sae.figures(AT)["sparsity_coefficient"].item() == pytest.approx(0.7 * sae.seeking.item())
    without = random_sae(sparsity="tanh", tanh_scale=0.5, coefficient=0.0)
    without.objective(x, AT)
    assert without.seeking.item() == 1.0, "by default λ stays"
    assert not torch.allclose(grads_of(sae)["W_enc"], grads_of(without)["W_enc"]), "the term trains the encoder"


def test_dead_latents_are_drawn_back():
    keys: dict[str, Any] = {"pre_activation_coefficient": 0.1, "dead_after_tokens": 100, "coefficient": 0.0}
    sae, x = random_sae(**keys), batch()
    with torch.no_grad():
        sae.threshold[:5] = 1e3  # silent, whatever the batch
    first, second = (sae.objective(x, AT) for _ in range(2))  # 64 tokens each
    assert first.total == first.reconstruction
    assert sae.tokens_silent[:5].tolist() == [128] * 5
    below_BF = torch.relu(sae.threshold - sae.pre_activations(x))[:, sae.tokens_silent >= 100]
    torch.testing.assert_close(second.total, second.reconstruction + 0.1 * below_BF.sum(1).mean())
    found = grads_of(sae)
    torch.testing.assert_close(found["threshold"][:5], torch.full((5,), 0.1))
    torch.testing.assert_close(found["b_enc"][:5], torch.full((5,), -0.1))


def test_without_a_delay_all_latents_are_drawn():
    sae = random_sae(pre_activation_coefficient=0.1, dead_after_tokens=0)
    x = batch()
    below_BF = torch.relu(sae.threshold - sae.pre_activations(x))
    loss, plain = sae.objective(x, AT), random_sae().objective(x, AT)
    torch.testing.assert_close(loss.total, plain.total + 0.1 * below_BF.sum(1).mean())


OPTIONS: list[dict[str, Any]] = [
    {"step_gradient": "all"}, {"sparsity": "tanh", "seek_l0": 0.02},
    {"pre_activation_coefficient": 0.1, "dead_after_tokens": 64},
]  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_stacks_and_exports(option):
    """Two steps of two SAEs together and alone; the folded copy is an ordinary JumpReLU SAE."""
    saes = [random_sae(**option), random_sae(**option, threshold=0.5)]
    for sae, target in zip(saes, (5, 9), strict=True):
        sae.target_l0 = target
    ones = copy.deepcopy(saes)
    whole, x = stack(saes), batch()
    for _ in range(2):
        loss = whole.objective(torch.stack([x, x]), AT)
        losses = [one.objective(x, AT) for one in ones]
    torch.testing.assert_close(loss.total, torch.stack([one.total for one in losses]))
    for one, sae in zip(ones, saes, strict=True):
        for name, buffer in one.named_buffers():
            torch.testing.assert_close(sae.get_buffer(name), buffer)
    folded = ones[0].folded()
    torch.testing.assert_close(folded(x), ones[0](x))
    assert set(dict(folded.named_buffers())) == {"scale"}


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_what_no_twin_computes_is_said(option, capsys):
    twin = fast_twin(random_sae(**option), torch.device("cpu"))
    said = capsys.readouterr().err
    if "step_gradient" in option:
        assert twin is not None
        assert said == ""
    else:
        key, value = next(iter(option.items()))
        assert twin is None
        assert said.startswith(f"sae.{key}={value}: the fast path does not compute it; ")
        assert said.count("\n") == 1


BAD = [
    {"step_gradient": "some"}, {"sparsity": "l1"}, {"tanh_scale": 0.0}, {"seek_l0": -1.0},
    {"pre_activation_coefficient": -1.0}, {"dead_after_tokens": -1}, {"step_gradient": "all", "sparsity": "tanh"},
    {"step_gradient": "all", "step_on": "post"},
]  # fmt: skip


@pytest.mark.parametrize("keys", BAD, ids=str)
def test_values_outside_their_range(keys):
    key, value = next(iter(keys.items()))
    with pytest.raises(UserError, match=rf"^sae.{key}={value}: "):
        JumpReLUConfig(**keys).check(500, 400)


@pytest.mark.parametrize("step_gradient", ["threshold", "all"])
def test_l0_is_brought_to_its_target(step_gradient):
    sae = random_sae(step_gradient=step_gradient, threshold=0.2)
    adam = torch.optim.Adam(sae.parameters(), 0.01, betas=(0.0, 0.999))
    for step in range(600):
        adam.zero_grad()
        sae.objective(batch(), Progress(step, 600)).total.backward()
        adam.step()
        with torch.no_grad():
            sae.normalise_decoder()
        sae.after_step()
    assert sae.objective(batch(), AT).l0.item() == pytest.approx(5, rel=0.25)
