"""The one-pass optimizer against its plain reference, and that one against torch's Adam."""

from collections.abc import Callable

import pytest
import torch

from saemd.sae import JumpReLUConfig, JumpReLUSAE
from saemd.sae.starts import unit_rows
from saemd.training.config import RecipeConfig
from saemd.training.optimizer import SAEAdam


def start(**keys) -> JumpReLUSAE:
    generator = torch.Generator().manual_seed(0)
    sae = JumpReLUSAE(40, 96, JumpReLUConfig(**keys))
    with torch.no_grad():
        sae.W_dec.copy_(unit_rows(torch.randn(96, 40, generator=generator)))
        sae.W_enc.copy_(sae.W_dec.T)
        sae.threshold.fill_(0.002)
    return sae


def steps(
    sae: JumpReLUSAE, optimizer: SAEAdam, n: int = 20, scale: float = 1.0, after: Callable[[], None] = lambda: None
) -> list[float]:
    """The gradients' norms of `n` steps on random gradients; `after` is called behind each."""
    generator, norms = torch.Generator().manual_seed(1), []
    for _ in range(n):
        for parameter in sae.parameters():
            grad = torch.randn(parameter.shape, generator=generator) * scale
            parameter.grad = torch.empty_like(parameter).copy_(grad)
        optimizer.step()
        norms.append(optimizer.gradient_norm)
        after()
    return norms


@pytest.mark.parametrize("bias", ["separate", "shared"])
@pytest.mark.parametrize("scale", [1e-4, 1.0])  # below and above the clipping norm
def test_one_pass_equals_plain(bias, scale):
    plain, fused = (start(bias=bias, threshold_lr=0.5) for _ in range(2))
    a = steps(plain, SAEAdam(plain, RecipeConfig(lr=1e-2, fast=False)), scale=scale)
    b = steps(fused, SAEAdam(fused, RecipeConfig(lr=1e-2)), scale=scale)
    assert a == pytest.approx(b, rel=1e-5)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(fused.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    assert (fused.W_dec.norm(dim=1) - 1).abs().max() < 1e-6
    assert fused.threshold.min() >= 1e-6
    assert not torch.equal(fused.W_enc, start().W_enc)


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_plain_is_torch_adam_behind_the_projection(beta1):
    sae, other = (start(positive_threshold=False) for _ in range(2))
    recipe = RecipeConfig(lr=1e-2, grad_clip_norm=1e9, adam_beta1=beta1, fast=beta1 > 0)
    steps(sae, SAEAdam(sae, recipe))
    adam = torch.optim.Adam(other.parameters(), lr=1e-2, betas=(beta1, 0.999), eps=1e-8)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        for parameter in other.parameters():
            parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator))
        grad = other.W_dec.grad
        assert grad is not None
        grad -= (grad * other.W_dec).sum(1, keepdim=True) * other.W_dec
        adam.step()
        other.normalise_decoder()
    for name, value in other.state_dict().items():
        torch.testing.assert_close(sae.state_dict()[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_state_survives_saving(beta1):
    sae, other = start(), start()
    recipe = RecipeConfig(adam_beta1=beta1)
    first, second = SAEAdam(sae, recipe), SAEAdam(other, recipe)
    steps(sae, first, 3)
    steps(other, second, 3)
    restored = SAEAdam(other, recipe)
    restored.load_state_dict(second.state_dict())
    steps(sae, first, 3)
    steps(other, restored, 3)
    for name, value in sae.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
