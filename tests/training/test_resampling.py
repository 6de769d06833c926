"""Dead latents start anew: which, where to, and alike in single runs, stacks and resumed runs."""

import pytest
import torch

from saemd.errors import UserError
from saemd.sae.registry import ARCHITECTURES
from saemd.sae.rounded import rows
from saemd.sae.starts import unit_rows
from saemd.training import callbacks
from saemd.training.config import RecipeConfig, check_recipe
from saemd.training.optimizer import SAEAdam
from saemd.training.resampling import ENCODER_NORM, is_due, resample, resample_silent
from saemd.training.schedules import schedule
from tests.pipeline import same

RUN = ["tokens=6400", "init=uniform", "l0=4", "recipe.fast=false"]
ON = ["recipe.resample_steps=3", "recipe.resample_until=0.7"]
B, D, F = 64, 12, 32


def trained(architecture: str):
    """An SAE whose first five latents are silent, its optimizer after one step, and a batch."""
    generator = torch.Generator().manual_seed(0)
    kind = ARCHITECTURES[architecture]
    sae = kind(D, F, kind.Config(name=architecture), target_l0=6.0)
    with torch.no_grad():
        sae.W_dec.copy_(unit_rows(torch.randn(F, D, generator=generator)))
        sae.W_enc.copy_(sae.W_dec.T)
        for parameter in sae.parameters():
            if parameter.shape == (F,):
                parameter.copy_(torch.rand(F, generator=generator) / 10)
        sae.W_enc[:, :5] = 0
    optimizer = SAEAdam(sae, RecipeConfig(fast=False))
    for parameter in sae.parameters():
        parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator))
    optimizer.step()
    return sae, optimizer, torch.randn(B, D, generator=generator)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_they_point_along_errors_and_the_others_stay(architecture):
    sae, optimizer, x_BD = trained(architecture)
    before = {name: value.detach().clone() for name, value in sae.named_parameters()}
    with torch.no_grad():
        errors_BD = torch.nn.functional.normalize(x_BD - sae.reconstruct(sae.latents(x_BD)), dim=1)
    dead_F = torch.arange(F) < 5
    resample(sae, optimizer, dead_F, x_BD, (0, 10))
    cosines_KB = sae.W_dec[:5].detach() @ errors_BD.T
    assert cosines_KB.amax(1).allclose(torch.ones(5))
    assert len(set(cosines_KB.argmax(1).tolist())) == 5  # a token each
    norm = before["W_enc"][:, 5:].norm(dim=0).mean()
    torch.testing.assert_close(sae.W_enc[:, :5].detach(), sae.W_dec[:5].detach().T * norm * ENCODER_NORM)
    for name, parameter in sae.named_parameters():
        now = parameter.detach()
        rows, old = (now.T, before[name].T) if name == "W_enc" else (now, before[name])
        square = optimizer.state_of(name)["square"]
        if name == "b_dec":
            assert torch.equal(now, before[name])
            continue
        assert torch.equal(rows[5:], old[5:])
        if now.dim() == 1:
            assert (rows[:5] == old[5:].median()).all()
        moments = square.T if name == "W_enc" else square
        assert (moments[:5] == moments[5:].mean()).all()


def test_hardly_reconstructed_tokens_are_preferred():
    sae, optimizer, x_BD = trained("jumprelu")
    x_BD[7] *= 1e4
    with torch.no_grad():
        error_D = (x_BD - sae.reconstruct(sae.latents(x_BD)))[7]
    resample(sae, optimizer, torch.arange(F) < 1, x_BD, (0, 10))
    torch.testing.assert_close(sae.W_dec[0].detach(), torch.nn.functional.normalize(error_D, dim=0))


@pytest.mark.parametrize(("dead", "scale"), [(0, 1.0), (F, 1.0), (5, float("nan"))])
def test_nothing_starts_anew_where_none_or_all_are_dead_or_the_error_is_not_finite(dead, scale):
    sae, optimizer, x_BD = trained("jumprelu")
    before = sae.W_dec.detach().clone()
    resample(sae, optimizer, torch.arange(F) < dead, x_BD * scale, (0, 10))
    assert torch.equal(sae.W_dec, before)


def test_each_takes_a_token_of_its_own_or_waits():
    sae, optimizer, x_BD = trained("jumprelu")
    dead_F, before = torch.arange(F) < 5, sae.W_enc.detach().clone()
    anew_F = resample(sae, optimizer, dead_F, x_BD[:3], (0, 10))
    assert anew_F.sum() == 3
    assert not (anew_F & ~dead_F).any()
    rows_KD = sae.W_dec[anew_F].detach()
    assert (rows_KD @ rows_KD.T - torch.eye(3)).abs().max() < 0.9
    assert torch.equal(sae.W_enc[:, ~anew_F], before[:, ~anew_F])
    last_fired_F = torch.where(dead_F, 0, 10)
    optimizer.recipe.resample_steps = 5
    resample_silent(sae, optimizer, last_fired_F, x_BD[:3], 10, 0)
    assert (last_fired_F[:5] == 10).sum() == 3


def test_rounded_copies_are_renewed_in_their_own_memory():
    """Which a step that was captured on a GPU goes on to read."""
    sae, optimizer, x_BD = trained("jumprelu")
    copies = {name: sae.rounded.get(name, sae.get_parameter(name), torch.bfloat16) for name in ("W_enc", "W_dec")}
    resample(sae, optimizer, torch.arange(F) < 5, x_BD, (0, 10))
    sae.renew_rounded()
    for name, copy in copies.items():
        matrix = sae.get_parameter(name)
        assert sae.rounded.get(name, matrix, torch.bfloat16) is copy
        assert torch.equal(copy, rows(matrix).bfloat16())


def test_it_ends_before_the_run_and_before_a_matrix_is_frozen():
    def steps(**keys) -> list[int]:
        plan = schedule(RecipeConfig(lr_warmup_steps=0, **keys), 20)
        return [step for step in range(1, 21) if is_due(plan, step)]

    assert steps() == []
    assert steps(resample_steps=5) == [5, 10, 15]
    assert steps(resample_steps=5, resample_until=0.75) == [5, 10]
    assert steps(resample_steps=5, resample_until=1.0) == [5, 10, 15]
    assert steps(resample_steps=5, freeze_decoder_after=0.4) == [5]
    assert steps(resample_steps=5, freeze_encoder_after=0.6) == [5, 10]


@pytest.fixture
def train(world, command, tmp_path):
    def run(name: str, *words: str, code: int = 0):
        assert command(*world, "-m", *RUN, *words, f"run_root={tmp_path / name}") == code
        return tmp_path / name

    return run


def runs(root) -> list:
    return sorted(path.parent.relative_to(root) for path in root.rglob("metrics.json"))


@pytest.mark.parametrize("sae", [["sae=jumprelu", "sae.threshold=0.5"], ["sae=topk"]], ids=" ".join)
def test_a_stack_and_a_killed_run_end_alike(sae, train, monkeypatch):
    words = [*sae, "seed=3,4", *ON]
    without, alone = train("without", *sae, "seed=3,4"), train("alone", *words)
    together = train("together", *words, "together=2")

    def after(self, trainer, *_):
        if trainer.global_step == 30:
            self.save(trainer)
        if trainer.global_step == 50:
            raise KeyError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.TimedCheckpoint, "on_train_batch_end", after)
        train("killed", *words, code=1)
    killed = train("killed", *words)
    assert len(runs(alone)) == 2
    for run in runs(alone):
        assert same(alone / run, together / run)
        assert same(alone / run, killed / run)
    assert not any(same(alone / a, without / b) for a in runs(alone) for b in runs(without))


@pytest.mark.parametrize(
    "keys",
    [
        {"resample_steps": -1},
        {"resample_steps": 5, "resample_until": 1.5},
        {"resample_steps": 5, "decoder_cosine": 0.8},
    ],
)
def test_what_it_cannot_do_is_refused(keys):
    with pytest.raises(UserError, match=r"recipe\.resample_"):
        check_recipe(RecipeConfig(**keys))
