"""What every architecture promises: folding, saving, and the whole way from training to scores on a tiny model."""

import json

import pytest
import torch

from saemd import evaluate, export, load_sae
from saemd.errors import UserError
from saemd.sae import ARCHITECTURES, SAE, Progress, save_sae
from saemd.stability import compare_root
from saemd.training.module import SAETraining
from tests.pipeline import same, train_all

D, F = 12, 40


def random_sae(name: str) -> SAE:
    """Trained-like: unit decoder rows, some latents active, a scale of its own."""
    generator = torch.Generator().manual_seed(0)
    sae = ARCHITECTURES[name](D, F, target_l0=4, scale=7.0)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        sae.normalise_decoder()
    if name.endswith("batch_topk"):
        sae.get_buffer("threshold").fill_(0.4)
    return sae


def batch(tokens: int = 64) -> torch.Tensor:
    return torch.randn(tokens, D, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_folding_and_saving_keep_latents_and_reconstructions(name, tmp_path):
    sae, x = random_sae(name), 7 * batch()
    save_sae(sae, tmp_path)
    for other in (sae.folded(), load_sae(tmp_path)):
        torch.testing.assert_close(other(x), sae(x), rtol=1e-4, atol=1e-4)
        assert torch.equal(other.encode(x) != 0, sae.encode(x) != 0)
        torch.testing.assert_close(other.W_dec.norm(dim=1), torch.ones(F))
    assert 0 < (sae.encode(x) != 0).sum() < x.numel() / D * F


def test_a_saved_topk_without_its_k_is_one_line(tmp_path):
    save_sae(random_sae("topk"), tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    del config["k"]
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"cfg.json: misses k"):
        load_sae(tmp_path)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_objective_reports_what_it_minimises(name):
    """Every parameter has a gradient; the reconstruction and L0 that are reported are those of the latents."""
    sae, x = random_sae(name), batch()
    loss = sae.objective(x, Progress(0, 100))
    loss.total.backward()
    for key, parameter in sae.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    if not name.endswith("batch_topk"):  # those train on whole batches, and encode single tokens
        z = sae.latents(x)
        torch.testing.assert_close(loss.reconstruction, (sae.reconstruct(z) - x).pow(2).sum(1).mean())
        torch.testing.assert_close(loss.l0, (z != 0).sum(1).float().mean())
        assert torch.equal(loss.fired, (z != 0).any(0))


@pytest.mark.parametrize("name", ["topk", "batch_topk", "matryoshka_batch_topk"])
def test_k_latents_are_active(name):
    sae = random_sae(name)
    with torch.no_grad():
        sae.get_parameter("b_enc").fill_(2.0)  # more than k are above 0
    z = sae.sparsify(sae.activations(batch()))  # type: ignore[operator]
    active = (z > 0).sum(1)
    assert active.sum() == 4 * 64
    assert bool((active == 4).all()) == (name == "topk")


def test_the_gated_coefficient_seeks_the_target():
    sae = random_sae("gated")
    before = sae.get_buffer("seeking").item()
    l0 = sae.objective(batch(), Progress(0, 100)).l0.item()
    assert (sae.get_buffer("seeking").item() > before) == (l0 > sae.target_l0)


BAD = {
    "topk": ("auxk_coefficient", -1.0),
    "batch_topk": ("threshold_beta", 1.0),
    "matryoshka_batch_topk": ("group_fractions", [0.5, 0.4]),
    "gated": ("seek_l0", -1.0),
}


@pytest.mark.parametrize("name", BAD)
def test_values_outside_their_range(name):
    key, value = BAD[name]
    with pytest.raises(UserError, match=rf"sae.{key}="):
        ARCHITECTURES[name].Config(**{key: value}).check(500, 400)


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "jumprelu"])
def test_from_training_to_scores(name, world, command, tmp_path, monkeypatch, capsys):
    """Trained, stopped and gone on with (bit for bit as without), compared, scored, exported in both forms."""
    root, stopped = tmp_path / "runs", tmp_path / "stopped"
    keys = [*world, "init=mirror", f"sae={name}", "checkpoint_minutes=0.0001", "recipe.lr=0.001"]
    keys += ["sae.seek_l0=0.1", "sae.sparsity_warmup_steps=0"] if name == "gated" else []
    assert not train_all(*keys, "seed=0,1", f"run_root={root}")
    run = root / "init=mirror" / "l0=4" / "seed=0"

    step = SAETraining.training_step
    with monkeypatch.context() as patch:

        def stop(self, x_BD, batch_idx):
            if self.global_step == 70:
                raise KeyboardInterrupt
            return step(self, x_BD, batch_idx)

        patch.setattr(SAETraining, "training_step", stop)
        assert command(*keys, "seed=0", f"run_root={stopped}") == 130
    other = stopped / run.relative_to(root)
    assert (other / "last.ckpt").is_file()
    assert not (other / "metrics.json").exists()
    assert command(*keys, "seed=0", f"run_root={stopped}") == 0
    assert same(run, other)

    assert json.loads((run / "metrics.json").read_text())["l0"] == pytest.approx(4, rel=0.5)
    (record,) = compare_root(root)
    assert record["seeds"] == [0, 1]
    cache_root = next(word for word in world if word.startswith("cache_root"))
    assert command(f"run_root={root}", cache_root, "logger=none", "core.tokens=600", main=evaluate.main) == 0
    assert json.loads((run / "quality" / "core.json").read_text())["status"] != "failed"
    for form in export.FORMATS:
        out = tmp_path / form
        code = command(f"run={run}", f"out={out}", f"format={form}", main=export.main)
        assert code == (2 if form == "sparsify" and name != "topk" else 0)
    assert torch.equal(load_sae(tmp_path / "saelens").W_dec, load_sae(run).W_dec)
