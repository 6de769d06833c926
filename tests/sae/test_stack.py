"""A stack's loss and gradients against those of its SAEs one by one, for every architecture."""

import copy
from collections.abc import Sequence

import pytest
import torch

from saemd.sae import ARCHITECTURES, SAE, JumpReLUSAE, Progress
from saemd.sae.base import Loss
from saemd.sae.jumprelu_fast.gpu import HalfLoss
from saemd.sae.stack import stack

AT = Progress(500, 1000)
FACTORS = (1.0, 1.7, 2.5)  # of the target L0
D, F, B = 16, 48, 32


def different_saes(architecture: str) -> list[SAE]:
    """Three, with other weights and targets; where latents can be dead: 10, 20 and none of them."""
    generator = torch.Generator().manual_seed(0)
    saes = [ARCHITECTURES[architecture](D, F, target_l0=3 + 2 * i) for i in range(3)]
    for sae, n_dead in zip(saes, (10, 20, 0), strict=True):
        with torch.no_grad():
            for name, parameter in sae.named_parameters():
                shift = 0.4 if name == "threshold" else 0.0
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator) + shift)
        if isinstance(sae, JumpReLUSAE):
            sae.config.bandwidth = 0.2  # wide enough for θ's gradient to be tested on few values
        if "tokens_silent" in dict(sae.named_buffers()):
            sae.get_buffer("tokens_silent")[:n_dead] = 10**8
    return saes


def batches() -> torch.Tensor:
    return torch.randn(3, B, D, generator=torch.Generator().manual_seed(1))


def assert_members_equal(whole: SAE, loss: Loss, ones: Sequence[SAE], losses: list[Loss], **tolerance) -> None:
    for i, (one, single) in enumerate(zip(ones, losses, strict=True)):
        for name in ("total", "reconstruction", "l0", "fired"):
            torch.testing.assert_close(getattr(loss, name)[i], getattr(single, name), **tolerance)
        for name, parameter in one.named_parameters():
            together, alone = whole.get_parameter(name).grad, parameter.grad
            assert together is not None
            assert alone is not None
            assert alone.abs().sum() > 0, name
            torch.testing.assert_close(together[i], alone, **tolerance)
        for name, buffer in one.named_buffers():
            torch.testing.assert_close(whole.get_buffer(name)[i], buffer)


def at_factors() -> tuple[Progress, list[Progress]]:
    """Of the stack, and of each of its SAEs."""
    return Progress(500, 1000, torch.tensor(FACTORS)), [Progress(500, 1000, factor) for factor in FACTORS]


@pytest.mark.parametrize("at", [(AT, [AT] * 3), at_factors()], ids=["one target", "falling targets"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_stack_has_the_losses_and_gradients_of_its_saes(architecture, at):
    saes, x_SBD = different_saes(architecture), batches()
    ones = copy.deepcopy(saes)
    whole = stack(saes)
    loss = whole.objective(x_SBD, at[0])
    losses = [one.objective(x, mine) for one, x, mine in zip(ones, x_SBD, at[1], strict=True)]
    loss.backward(whole)
    for one, single in zip(ones, losses, strict=True):
        single.backward(one)
    assert_members_equal(whole, loss, ones, losses, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", ["separate", "shared"])
@pytest.mark.parametrize("step_on", ["pre", "post"])
def test_the_gpu_loss_takes_stacks(bias, step_on):
    together, each = at_factors()
    saes, x_SBD = [sae for sae in different_saes("jumprelu") if isinstance(sae, JumpReLUSAE)], batches()
    for sae in saes:
        sae.config.bias, sae.config.step_on = bias, step_on
        sae.b_enc = None if bias == "shared" else sae.b_enc
    ones = copy.deepcopy(saes)
    whole, twin = stack(saes), HalfLoss(torch.float32)
    loss = twin(whole, x_SBD, together)
    losses = [one.objective(x, mine) for one, x, mine in zip(ones, x_SBD, each, strict=True)]
    loss.backward(whole)
    for one, single in zip(ones, losses, strict=True):
        single.backward(one)
    assert_members_equal(whole, loss, ones, losses, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_stack_and_its_saes_share_memory(architecture):
    saes = different_saes(architecture)
    other = different_saes(architecture)[2]
    whole = stack(saes)
    assert whole.W_enc[1].stride() == other.W_enc.stride()  # latent by latent
    with torch.no_grad():
        whole.W_enc.mul_(2)
    assert torch.equal(saes[1].W_enc, whole.W_enc[1])
    saes[0].load_state_dict(other.state_dict())
    for name, value in other.state_dict().items():
        assert torch.equal(whole.state_dict()[name][0], value)
