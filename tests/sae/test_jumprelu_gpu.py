"""The GPU's loss and optimizer, run on the CPU: against their plain references, and without a wait in a step."""

from collections.abc import Callable, Iterator
from typing import Any

import lightning as pl
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from saemd.sae import JumpReLUConfig, JumpReLUSAE, Progress, fused, twins
from saemd.sae.jumprelu_fast.gpu import HalfLoss
from saemd.training import optimizer as optimizer_module
from saemd.training.config import RecipeConfig
from saemd.training.module import LOG_EVERY, SAETraining
from saemd.training.optimizer import SAEAdam
from saemd.training.schedules import schedule
from tests.sae.test_jumprelu import AT, STEPS, WIDTH, gradients, random_sae
from tests.training.test_optimizer import start, steps
from tests.training.test_reference import F, batches, jumprelu, train

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.fixture
def compile_with(monkeypatch) -> Iterator[Callable[[Callable], None]]:
    """Has passes compiled by another function than `torch.compile`, for this test."""
    fused._compiled.cache_clear()
    yield lambda compiler: monkeypatch.setattr(torch, "compile", lambda function, **_: compiler(function))
    fused._compiled.cache_clear()


@pytest.fixture
def gpu_way(monkeypatch):
    """What `recipe.fast` means on a GPU, on the CPU."""
    monkeypatch.setattr(twins, "_twin", lambda architecture, device: HalfLoss())
    monkeypatch.setattr(SAEAdam, "_by_kernels", SAEAdam._by_passes)


@pytest.mark.parametrize("bias", ["separate", "shared"])
@pytest.mark.parametrize(("step_on", "step_gradient"), STEPS)
@pytest.mark.parametrize("threshold", [0.8, 0.02, -0.05])
def test_unrounded_equals_reference(bias, step_on, step_gradient, threshold):
    sae = random_sae(bias=bias, threshold=threshold, step_on=step_on, step_gradient=step_gradient)
    reference, found = gradients(sae, JumpReLUSAE.objective), gradients(sae, HalfLoss(torch.float32))
    assert reference.keys() == found.keys()
    for name in reference:
        torch.testing.assert_close(
            found[name], reference[name], rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


def trained_like(bias: str, step_on: str) -> tuple[JumpReLUSAE, torch.Tensor]:
    """Unit rows, tied, L0 about 20 where the target is 10, and inputs of mean squared norm 1."""
    generator, d_in, d_sae = torch.Generator().manual_seed(2), 128, 512
    config = JumpReLUConfig(bias=bias, step_on=step_on, bandwidth=0.01, sparsity_warmup_steps=0)
    sae = JumpReLUSAE(d_in, d_sae, config, target_l0=10)
    x_BD = torch.randn(1024, d_in, generator=generator)
    x_BD /= x_BD.pow(2).sum(1).mean().sqrt()
    with torch.no_grad():
        rows = torch.randn(d_sae, d_in, generator=generator)
        sae.W_dec.copy_(rows / rows.norm(dim=1, keepdim=True))
        sae.W_enc.copy_(sae.W_dec.T)
        sae.threshold.copy_(0.15 + 0.02 * torch.rand(d_sae, generator=generator))
    return sae, x_BD


@pytest.mark.parametrize("bias", ["separate", "shared"])
@pytest.mark.parametrize("step_on", ["pre", "post"])
@pytest.mark.parametrize("given", ["rounded", "as they are"])
def test_bfloat16_stays_near_the_reference(bias, step_on, given):
    """With x, W_enc and W_dec of 8 bits to begin with, only z and the gradients are rounded: 0.5 %. Otherwise pairs
    within the rounding of their threshold change sides, and each takes its whole gradient with it."""
    sae, x_BD = trained_like(bias, step_on)
    if given == "rounded":
        x_BD = x_BD.bfloat16().float()
        with torch.no_grad():
            for matrix in (sae.W_enc, sae.W_dec):
                matrix.copy_(matrix.bfloat16())
    losses = [loss_of(sae, x_BD, AT) for loss_of in (JumpReLUSAE.objective, HalfLoss())]
    for name in ("total", "reconstruction", "l0"):
        exact, found = (getattr(loss, name).item() for loss in losses)
        assert found == pytest.approx(exact, rel=2e-3), name
    assert (losses[0].fired == losses[1].fired).float().mean() > 0.99
    losses[0].total.backward()
    assert losses[1].grads is not None
    for name, parameter in sae.named_parameters():
        exact, found = parameter.grad, losses[1].grads[name].float()
        assert exact is not None
        bound = 0.005 if given == "rounded" else {"threshold": 0.15, "b_enc": 0.03, "b_dec": 0.03}.get(name, 0.06)
        assert (found - exact).norm() <= bound * exact.norm(), name


@pytest.mark.parametrize("bias", ["separate", "shared"])
@pytest.mark.parametrize("scale", [1e-4, 1.0])  # below and above the clipping norm
def test_passes_equal_the_plain_optimizer(monkeypatch, bias, scale):
    plain, found = (start(bias=bias, threshold_lr=0.5) for _ in range(2))
    a = steps(plain, SAEAdam(plain, RecipeConfig(lr=1e-2, fast=False)), scale=scale)
    monkeypatch.setattr(SAEAdam, "_by_kernels", SAEAdam._by_passes)
    b = steps(found, SAEAdam(found, RecipeConfig(lr=1e-2)), scale=scale)
    assert a == pytest.approx(b, rel=1e-5)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    assert (found.W_dec.norm(dim=1) - 1).abs().max() < 1e-6
    assert not torch.equal(found.W_enc, start().W_enc)


def test_the_rounded_copies_follow_the_matrices(monkeypatch):
    monkeypatch.setattr(SAEAdam, "_by_kernels", SAEAdam._by_passes)
    sae = start()
    optimizer = SAEAdam(sae, RecipeConfig(lr=1e-2))
    for _ in range(2):
        steps(sae, optimizer, 1)
        for name, rows in (("W_enc", sae.W_enc.T), ("W_dec", sae.W_dec)):
            copy = sae.rounded.get(name, sae.get_parameter(name), torch.bfloat16)
            assert copy is sae.rounded.get(name, sae.get_parameter(name), torch.bfloat16)
            assert torch.equal(copy, rows.bfloat16())
    sae.load_state_dict(start().state_dict())
    assert torch.equal(sae.rounded.get("W_dec", sae.W_dec, torch.bfloat16), start().W_dec.bfloat16())


def same_start() -> JumpReLUSAE:
    sae = jumprelu()
    rows = torch.randn(F, sae.d_in, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        sae.W_dec.copy_(rows / rows.norm(dim=1, keepdim=True))
        sae.W_enc.copy_(sae.W_dec.T)
    return sae


def test_the_learning_curve_stays_within_one_percent(gpu_way):
    """200 steps; issue 3 asks for 1 % on the CPU, and the rounding here is that of a GPU's bfloat16."""
    plain, found = same_start(), same_start()
    a = torch.tensor(train(plain, fast=False))
    b = torch.tensor(train(found, fast=True))
    apart = (b - a).abs() / a
    assert 1e-7 < apart.median() < 2e-3
    assert apart.max() < 1e-2
    assert (found.threshold - plain.threshold).norm() < 1e-2 * plain.threshold.norm()


class Waits(TorchDispatchMode):
    """Notes every operation that hands a tensor's content to Python, or takes its shape from it."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self.note = note

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:  # type: ignore[override]
        name = func.overloadpacket.__name__
        masks = args[1] if name in ("index", "index_put", "index_put_", "_unsafe_index") else ()
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero") or any(
            mask is not None and mask.dtype in (torch.bool, torch.uint8) for mask in masks
        ):
            self.note(name)
        return func(*args, **(kwargs or {}))


CONSTRAINED: dict[str, Any] = {
    "encoder_decay": 3.0, "encoder_decay_until": 0.5, "freeze_decoder_after": 0.75, "freeze_encoder_after": 0.5,
    "decoder_cosine": 0.99
}  # fmt: skip


@pytest.mark.parametrize("constraints", [{}, CONSTRAINED], ids=["free", "constrained"])
@pytest.mark.parametrize("fast", [True, False])
def test_nothing_waits_for_the_gpu_but_logged_steps(gpu_way, monkeypatch, fast, constraints):
    """The whole loop, Lightning's part included; `tolist` and its like reach memory behind the dispatcher's back."""
    recipe = RecipeConfig(fast=fast, **constraints)
    module = SAETraining(same_start(), recipe, steps=2 * LOG_EVERY, mean_D=torch.zeros(24))
    waits: dict[bool, list[str]] = {True: [], False: []}

    class InSteps(pl.Callback):
        """Without what Lightning does before the first step and after the last."""

        now = False

        def on_train_batch_start(self, *_: Any) -> None:
            self.now = True

        def on_train_end(self, *_: Any) -> None:
            self.now = False

    in_steps = InSteps()

    def note(name: str) -> None:
        if in_steps.now:
            waits[module._log_now].append(name)

    for name in ("tolist", "numpy", "cpu"):
        real = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda *a, real=real, name=name, **k: note(name) or real(*a, **k))
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=2 * LOG_EVERY, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[in_steps],
    )  # fmt: skip
    with Waits(note):
        trainer.fit(module, train_dataloaders=torch.utils.data.DataLoader(batches(), batch_size=None))  # type: ignore[arg-type]
    assert trainer.global_step == 2 * LOG_EVERY
    assert waits[False] == []
    assert waits[True].count("tolist") == waits[True].count("_local_scalar_dense") == 3  # figures, gradient norm


@pytest.mark.parametrize("constraints", [{}, CONSTRAINED], ids=["free", "constrained"])
@pytest.mark.parametrize("bias", ["separate", "shared"])
@pytest.mark.parametrize(("step_on", "step_gradient"), STEPS)
def test_a_step_on_cuda_tensors_without_content(monkeypatch, compile_with, bias, step_on, step_gradient, constraints):
    """The branch that only CUDA takes: shapes, dtypes and devices fit, and nobody asks for a value."""
    compile_with(lambda function: function)
    monkeypatch.setattr(torch.Tensor, "copy_", torch.Tensor.expand_as)  # this torch may know no CUDA to copy with
    for place in (twins, optimizer_module):
        monkeypatch.setattr(place, "multiplies_bfloat16", lambda device: device == "cuda")
    with FakeTensorMode(), torch.device("cuda"):
        config = JumpReLUConfig(bias=bias, step_on=step_on, step_gradient=step_gradient, bandwidth=WIDTH)
        sae = JumpReLUSAE(24, F, config, target_l0=8)
        optimizer, twin = SAEAdam(sae, RecipeConfig(**constraints)), twins.fast_twin(sae, torch.device("cuda"))
        assert isinstance(twin, HalfLoss)
        for step in range(2):
            loss = twin(sae, torch.randn(128, 24), Progress(step, 2))
            loss.backward(sae)
            for parameter in sae.parameters():
                assert parameter.grad is not None
                assert parameter.grad.stride() == parameter.stride()
                assert parameter.grad.dtype == (torch.bfloat16 if parameter.dim() == 2 else torch.float32)
            optimizer.step()
            optimizer.zero_grad()
        assert loss.total.device.type == sae.W_dec.device.type == "cuda"
        assert all(parameter.dtype == torch.float32 for parameter in sae.parameters())


@pytest.mark.parametrize("constraints", [{}, CONSTRAINED], ids=["free", "constrained"])
def test_each_pass_is_one_graph_for_all_steps(gpu_way, monkeypatch, compile_with, constraints):
    """No graph break, and no new compilation when λ, the learning rate, the target, Adam's correction or what is
    constrained change."""
    from torch._dynamo.testing import CompileCounterWithBackend

    counter, real = CompileCounterWithBackend("aot_eager"), torch.compile
    compile_with(lambda function: real(function, dynamic=False, fullgraph=True, backend=counter))
    monkeypatch.setattr(fused, "COMPILED_ON", {"cpu"})
    plain, sae, x_BD = start(), start(), torch.randn(64, 40, generator=torch.Generator().manual_seed(3))
    paths = [
        (model, loss_of, SAEAdam(model, recipe, schedule(recipe, 4)))
        for model, loss_of, fast in ((plain, JumpReLUSAE.objective, False), (sae, HalfLoss(torch.float32), True))
        for recipe in [RecipeConfig(lr=1e-2, fast=fast, **constraints)]
    ]
    graphs = []
    for step in range(4):
        for model, loss_of, optimizer in paths:
            model.target_l0 = 5 + step
            for group in optimizer.param_groups:
                group["lr"] *= 0.9
            optimizer.zero_grad()
            loss_of(model, x_BD, Progress(step, 100)).backward(model)
            optimizer.step()
        graphs.append(counter.frame_count)
    assert graphs[0] == graphs[-1] > 0
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(sae.state_dict()[name], value, rtol=1e-3, atol=1e-4)


@on_gpu
@pytest.mark.parametrize("bias", ["separate", "shared"])
@pytest.mark.parametrize("step_on", ["pre", "post"])
def test_compiled_on_a_gpu(bias, step_on):
    """What the CPU holds above, compiled: the loss's figures and gradients, and ten steps of the optimizer."""
    sae, x_BD = trained_like(bias, step_on)
    here = HalfLoss()(sae, x_BD, AT)
    there = HalfLoss()(sae.cuda(), x_BD.cuda(), AT)
    assert here.grads is not None
    assert there.grads is not None
    assert there.total.item() == pytest.approx(here.total.item(), rel=1e-3)
    assert there.l0.item() == pytest.approx(here.l0.item(), rel=1e-3)
    for name, grad in here.grads.items():
        apart = (there.grads[name].cpu().float() - grad.float()).norm()
        assert apart <= 0.02 * grad.float().norm(), name
    plain, found = start(bias=bias).cuda(), start(bias=bias).cuda()
    a = steps(plain, SAEAdam(plain, RecipeConfig(lr=1e-2, fast=False)), 10)
    b = steps(found, SAEAdam(found, RecipeConfig(lr=1e-2)), 10)
    assert a == pytest.approx(b, rel=1e-5)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-4, atol=1e-5)


@on_gpu
def test_batches_sent_ahead_are_the_stream(tmp_path):
    from tests.activations.caches import make

    cache = make(tmp_path / "cache")
    here, there = (cache.stream(100, 2000, seed=0) for _ in range(2))
    there.device = torch.device("cuda", 0)
    for a, b in zip(here, there, strict=True):
        assert b.device.type == "cuda"
        assert torch.equal(a, b.cpu())
    assert here.state_dict() == there.state_dict()
