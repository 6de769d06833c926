"""Gradients against their closed form, and the fast path against the reference."""

import os
import subprocess
import sys
from contextlib import nullcontext
from typing import Any

import numba
import pytest
import torch

from saemd.sae import JumpReLUConfig, JumpReLUSAE, Progress, products
from saemd.sae.jumprelu import JumpReLU, Step
from saemd.sae.jumprelu_fast import cpu, encoder
from saemd.sae.jumprelu_fast.cpu import FastLoss
from tests.sae.encoder_products import exact_products, rounded_factors, rounded_products

WIDTH = 0.1
AT = Progress(0, 1)
STEPS = [("pre", "threshold"), ("post", "threshold"), ("pre", "all")]  # step_on and step_gradient


def random_sae(
    d_in: int = 12, d_sae: int = 40, *, bias: str = "separate", threshold: float = 0.8, coefficient: float = 0.7,
    bandwidth: float = WIDTH, step_on: str = "pre", **more: Any,
) -> JumpReLUSAE:  # fmt: skip
    """Target L0 5; the sparsity term has its whole coefficient from the first step on."""
    generator = torch.Generator().manual_seed(0)
    config = JumpReLUConfig(
        bias=bias, bandwidth=bandwidth, step_on=step_on, sparsity_coefficient=coefficient, sparsity_warmup_steps=0,
        **more,
    )  # fmt: skip
    sae = JumpReLUSAE(d_in, d_sae, config, target_l0=5)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
            if name == "threshold":
                parameter.copy_(threshold + 0.2 * torch.rand(parameter.shape, generator=generator))
    return sae


def batch(n: int = 64, d_in: int = 12) -> torch.Tensor:
    return torch.randn(n, d_in, generator=torch.Generator().manual_seed(1))


def gradients(sae: JumpReLUSAE, loss_function) -> dict[str, torch.Tensor]:
    sae.zero_grad()
    loss = loss_function(sae, batch(), AT)
    loss.backward(sae)
    grads = {name: p.grad.clone() for name, p in sae.named_parameters() if p.grad is not None}
    return {"total": loss.total.detach(), "l0": loss.l0, "reconstruction": loss.reconstruction, **grads}


@pytest.mark.parametrize("bias", ["separate", "shared"])
@pytest.mark.parametrize(("step_on", "step_gradient"), STEPS)
@pytest.mark.parametrize("threshold", [0.8, 0.02, -0.05])
@pytest.mark.parametrize("product", [exact_products, rounded_factors, rounded_products])
@pytest.mark.parametrize("way", ["pairs", "whole"])
def test_fast_equals_reference(monkeypatch, bias, step_on, step_gradient, threshold, product, way):
    monkeypatch.setattr(cpu, "dense_above", lambda decoder_bytes: {"pairs": 2.0, "whole": -1.0}[way])
    monkeypatch.setattr(encoder, "encode", product)
    monkeypatch.setattr(products, "halves_are_faster", lambda: product is rounded_products)
    monkeypatch.setattr(products, "onednn", nullcontext)  # with AMX it rounds factors
    sae = random_sae(bias=bias, threshold=threshold, step_on=step_on, step_gradient=step_gradient)
    reference, found = gradients(sae, JumpReLUSAE.objective), gradients(sae, FastLoss())
    assert reference.keys() == found.keys()
    torch.testing.assert_close(found["l0"], reference["l0"], rtol=1e-6, atol=0)  # who is active is always exact
    if product is not exact_products:
        for name in reference:  # only what is near θ is exact
            assert (found[name] - reference[name]).norm() < 0.01 * reference[name].norm() + 1e-5, name
        return
    for name in reference:
        torch.testing.assert_close(
            found[name], reference[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="numba has one thread")  # type: ignore[attr-defined]
@pytest.mark.parametrize("way", ["pairs", "whole"])
def test_threads_that_share_the_loops_give_the_gradients_of_one(monkeypatch, way):
    monkeypatch.setattr(cpu, "dense_above", lambda decoder_bytes: {"pairs": 2.0, "whole": -1.0}[way])
    found, before = [], numba.get_num_threads()
    try:
        for threads in (1, 2):
            numba.set_num_threads(threads)
            found.append(gradients(random_sae(), FastLoss()))
    finally:
        numba.set_num_threads(before)
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value)


@pytest.mark.parametrize("product", [exact_products, rounded_factors, rounded_products])
@pytest.mark.parametrize("name", ["W_enc", "b_enc", "W_dec", "b_dec", "threshold"])
def test_a_diverged_sae_stays_within_its_memory(monkeypatch, product, name):
    """NaN compares as it likes in compiled loops; their pairs once ran over the lists' ends and ended the process."""
    monkeypatch.setattr(cpu, "dense_above", lambda decoder_bytes: 2.0)
    monkeypatch.setattr(encoder, "encode", product)
    fast_loss = FastLoss()
    for value in (float("nan"), float("inf"), -float("inf"), 1e30):
        sae = random_sae()
        with torch.no_grad():
            getattr(sae, name).fill_(value)
        fast_loss(sae, batch(), AT)
    assert fast_loss(random_sae(), batch(), AT).total.isfinite()


@pytest.mark.parametrize("product", [rounded_factors, rounded_products])
@pytest.mark.parametrize("scale", [1.0, 3.7])
def test_near_the_threshold_pre_activations_are_float32(monkeypatch, product, scale):
    """θ's gradient of the L0 term alone counts exactly the pairs in the straight-through window, however narrow."""
    monkeypatch.setattr(cpu, "dense_above", lambda decoder_bytes: 2.0)
    monkeypatch.setattr(encoder, "encode", product)
    sae, x = random_sae(threshold=0.5, coefficient=1.0, bandwidth=0.003), batch(4096)
    sae.scale.fill_(scale)
    with torch.no_grad():
        near_BF = (sae.pre_activations(x) - sae.threshold).abs() < sae.config.bandwidth / 2
        sae.W_dec.zero_()  # no reconstruction, so no gradient from it
        sae.b_dec.zero_()
    assert 100 < near_BF.sum() < 0.01 * near_BF.numel()
    found = FastLoss()(sae, x, AT)
    assert found.grads is not None
    excess = found.l0.item() / sae.target_l0 - 1
    step = 2 * excess / sae.target_l0 / len(x) / sae.config.bandwidth
    torch.testing.assert_close(found.grads["threshold"], -step * near_BF.sum(0).float(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("product", [rounded_factors, rounded_products])
@pytest.mark.parametrize("off", [2**-8, -(2**-9)])
def test_the_largest_rounding_errors_lose_no_pair(monkeypatch, product, off):
    """All entries as far from bfloat16's numbers as they can be, and all errors of one sign."""
    monkeypatch.setattr(cpu, "dense_above", lambda decoder_bytes: 2.0)
    monkeypatch.setattr(encoder, "encode", product)
    sae = random_sae(bandwidth=1e-4)
    x = torch.full((64, 12), 1 + off)
    with torch.no_grad():
        sae.W_enc.fill_(1 + off)
        pre = sae.pre_activations(x)[0]
        sides = torch.where(torch.arange(sae.d_sae) % 2 == 0, -1e-3, 1e-3)
        sae.threshold.copy_(pre + sides)  # every other latent is active, narrowly
    found = FastLoss()(sae, x, AT)
    assert found.l0 == sae.objective(x, AT).l0 == sae.d_sae / 2
    assert torch.equal(found.fired, sides < 0)


@pytest.mark.parametrize("scale", [1.0, 3.7])
@pytest.mark.parametrize("product", [encoder.encode, rounded_factors, rounded_products])
def test_products_lie_within_their_bounds(product, scale):
    """This CPU's own ones, and those of others; with entries of very different sizes."""
    generator = torch.Generator().manual_seed(0)
    x, W = (torch.randn(n, 96, generator=generator).pow(3) for n in (64, 200))
    found = product(x, W, scale, encoder.Workspace())
    values = torch.from_numpy(found.values)
    if values.dtype == torch.uint16:
        values = values.view(torch.bfloat16)
    exact = found.times * (x.double() @ W.double().T)
    room = torch.from_numpy(found.slack).double()[:, None] * torch.from_numpy(found.norm).double()
    sums = 1e-6 * found.times * x.double().norm(dim=1)[:, None] * W.double().norm(dim=1)  # float32's own rounding
    assert ((values.double() - exact).abs() <= found.output * exact.abs() + room + sums).all()


def test_rows_are_rounded_as_torch_rounds_them_and_measured():
    x = torch.randn(64, 12, generator=torch.Generator().manual_seed(0))
    x[0] = 1 + 2**-8  # between two of bfloat16's numbers
    found = encoder.Workspace().measured("a", x)
    assert torch.equal(found.rows, x.bfloat16())
    torch.testing.assert_close(torch.from_numpy(found.norm), x.norm(dim=1))
    torch.testing.assert_close(torch.from_numpy(found.error), (x - x.bfloat16().float()).norm(dim=1))


def test_nothing_is_rounded_off_stored_activations():
    """They are bfloat16 over the scale, in float32."""
    stored, scale = torch.randn(64, 12, generator=torch.Generator().manual_seed(0)).bfloat16(), 3.7
    found = encoder.Workspace().measured("a", stored.float() / scale, scale)
    assert torch.equal(found.rows, stored)
    assert (found.error < 2**-22 * found.norm).all()


@pytest.mark.parametrize("product", [exact_products, rounded_factors, rounded_products])
def test_products_of_factors_that_need_no_rounding(monkeypatch, product):
    """Whole numbers: what is rounded is at most the product itself."""
    monkeypatch.setattr(cpu, "dense_above", lambda decoder_bytes: 2.0)
    monkeypatch.setattr(encoder, "encode", product)
    sae, x = random_sae(), batch(4096).mul(8).round()
    with torch.no_grad():
        sae.W_enc.mul_(8).round_()
        for name, value in (("b_enc", 0.0), ("threshold", 260.3)):  # from 256 on bfloat16 has only even whole numbers
            sae.get_parameter(name).fill_(value)
    found = FastLoss()(sae, x, AT)
    assert found.l0 == sae.objective(x, AT).l0 > 0


def test_pairs_are_taken_below_the_density_and_matrices_above(monkeypatch):
    sae, taken = random_sae(threshold=2.0), []
    for way in ("_pairs", "_whole"):
        real = getattr(FastLoss, way)
        monkeypatch.setattr(FastLoss, way, lambda *a, real=real, way=way: taken.append(way) or real(*a))
    loss_of = FastLoss()
    found = loss_of(sae, batch(), AT)
    assert torch.equal(found.fired, sae.objective(batch(), AT).fired)
    assert found.fired.any()
    with torch.no_grad():
        sae.threshold.fill_(-5.0)
    loss_of(sae, batch(), AT)
    assert taken == ["_pairs", "_whole"]


def test_straight_through_gradients_in_closed_form():
    pre = torch.tensor([[0.50, 0.54, 0.46, 0.44, 0.56]], requires_grad=True)
    theta = torch.full((5,), 0.5, requires_grad=True)
    JumpReLU.apply(pre, theta, WIDTH).sum().backward()
    assert pre.grad is not None
    assert theta.grad is not None
    assert torch.equal(pre.grad, torch.tensor([[0.0, 1, 0, 0, 1]]))
    torch.testing.assert_close(theta.grad, torch.tensor([-5.0, -5, -5, 0, 0]))  # −θ/ε inside the window
    pre.grad = theta.grad = None
    Step.apply(pre, theta, WIDTH).sum().backward()
    assert pre.grad is None
    torch.testing.assert_close(theta.grad, torch.tensor([-10.0, -10, -10, 0, 0]))  # −1/ε inside the window


def test_step_on_pre_activations_is_the_slope_of_the_smoothed_l0():
    """E[L0] over a dense sample changes with θ as the straight-through gradient says; on outputs only half of it."""
    generator = torch.Generator().manual_seed(0)
    pre = torch.randn(400_000, 1, generator=generator)
    theta = torch.tensor([0.5], requires_grad=True)
    slope = ((pre > 0.55).float().mean() - (pre > 0.45).float().mean()) / 0.1
    Step.apply(pre, theta, WIDTH).mean().backward()
    assert theta.grad is not None
    assert theta.grad.item() == pytest.approx(slope.item(), rel=0.02)
    theta.grad.zero_()
    Step.apply(JumpReLU.apply(pre, theta.detach(), WIDTH), theta, WIDTH).mean().backward()
    assert theta.grad.item() == pytest.approx(slope.item() / 2, rel=0.05)


DIGEST = """
import hashlib, numpy as np
from saemd.sae.jumprelu_fast import kernels
draw, f = np.random.default_rng(0), np.float32
pre, grad = draw.normal(0.3, 0.02, (64, 300)).astype(f), draw.normal(size=(64, 300)).astype(f)
theta, bias, grad_theta = draw.normal(0.3, 0.01, 300).astype(f), np.empty(300, f), np.empty(300, f)
kernels.activate_backward(pre, theta, f(0.02), f(0.001), True, f(1 / 32), grad, bias, grad_theta)
print(hashlib.sha256(grad.tobytes() + bias.tobytes() + grad_theta.tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_vectorised_and_scalar_loops_round_alike(tmp_path):
    """LLVM chooses between the two when a loop starts, by where its arrays lie; a run must have the same bits."""
    digests = set()
    for vectorised in ("0", "1"):
        switches = {"NUMBA_LOOP_VECTORIZE": vectorised, "NUMBA_SLP_VECTORIZE": vectorised}
        environment = {**os.environ, **switches, "NUMBA_CACHE_DIR": str(tmp_path / vectorised)}
        done = subprocess.run(
            [sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True
        )
        digests.add(done.stdout)
    assert len(digests) == 1
