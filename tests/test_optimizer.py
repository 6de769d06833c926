"""The one-pass optimizer against its plain reference, and that one against torch's Adam."""

import pytest
import torch

from saemd.sae import JumpReLUSAE
from saemd.sae.init import unit_rows
from saemd.training.config import RecipeConfig
from saemd.training.optimizer import SAEAdam


def start(bias: str = "separate") -> JumpReLUSAE:
    generator = torch.Generator().manual_seed(0)
    sae = JumpReLUSAE(40, 96, bias=bias)  # type: ignore[arg-type]
    with torch.no_grad():
        sae.W_dec.copy_(unit_rows(torch.randn(96, 40, generator=generator)))
        sae.W_enc.copy_(sae.W_dec.T)
        sae.threshold.fill_(0.002)
    return sae


def steps(sae: JumpReLUSAE, optimizer: SAEAdam, n: int = 20, scale: float = 1.0) -> list[float]:
    generator, norms = torch.Generator().manual_seed(1), []
    for _ in range(n):
        for parameter in sae.parameters():
            grad = torch.randn(parameter.shape, generator=generator) * scale
            parameter.grad = torch.empty_like(parameter).copy_(grad)
        optimizer.step()
        norms.append(optimizer.gradient_norm)
    return norms


@pytest.mark.parametrize("bias", ["separate", "shared"])
@pytest.mark.parametrize("scale", [1e-4, 1.0])  # below and above the clipping norm
def test_one_pass_equals_plain(bias, scale):
    plain, fused = start(bias), start(bias)
    recipe = RecipeConfig(lr=1e-2, threshold_lr=0.5)
    a = steps(plain, SAEAdam(plain, recipe, fused=False), scale=scale)
    b = steps(fused, SAEAdam(fused, recipe, fused=True), scale=scale)
    assert a == pytest.approx(b, rel=1e-5)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(fused.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    assert (fused.W_dec.norm(dim=1) - 1).abs().max() < 1e-6
    assert fused.threshold.min() >= 1e-6
    assert not torch.equal(fused.W_enc, start().W_enc)


def test_plain_is_torch_adam_behind_the_projection():
    sae, other = start(), start()
    recipe = RecipeConfig(lr=1e-2, grad_clip_norm=1e9, positive_threshold=False)
    steps(sae, SAEAdam(sae, recipe, fused=False))
    adam = torch.optim.Adam(other.parameters(), lr=1e-2, betas=(0.0, 0.999), eps=1e-8)
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


def test_state_survives_saving():
    sae, other = start(), start()
    recipe = RecipeConfig()
    first, second = SAEAdam(sae, recipe), SAEAdam(other, recipe)
    steps(sae, first, 3)
    steps(other, second, 3)
    restored = SAEAdam(other, recipe)
    restored.load_state_dict(second.state_dict())
    steps(sae, first, 3)
    steps(other, restored, 3)
    for name, value in sae.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
