"""The `reference` recipe against dictionary_learning 0.1.0's own JumpReluTrainer, from its published wheel."""

import sys
import types
from contextlib import nullcontext
from typing import Any

import lightning as pl
import pytest
import torch

from saemd.packages import Package, fetch_package
from saemd.sae import JumpReLUSAE
from saemd.training.config import RecipeConfig
from saemd.training.module import SAETraining
from tests.encoder_products import exact_products, rounded_products

PEER = Package(
    "dictionary-learning", "0.1.0", "211116f9cc6fde643ea447f11da1c1ea9d0174dd9460e2031ae95b2724622ca5"
)  # fmt: skip
STEPS, B, D, F = 200, 128, 24, 96


@pytest.fixture
def peer_trainer(monkeypatch, cache_root):
    """JumpReluTrainer, imported out of the archive; its package's root imports nnsight, which training never calls."""
    monkeypatch.syspath_prepend(str(fetch_package(PEER, cache_root)))
    nnsight = types.ModuleType("nnsight")
    nnsight.LanguageModel = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nnsight", nnsight)
    from dictionary_learning.trainers.jumprelu import JumpReluTrainer  # type: ignore[import-not-found]

    return JumpReluTrainer


def batches() -> list[torch.Tensor]:
    """Sparse mixtures of fixed directions, mean squared norm 1, as normalised activations have."""
    generator = torch.Generator().manual_seed(5)
    directions = torch.randn(F, D, generator=generator)
    codes = torch.rand(STEPS * B, F, generator=generator) * (torch.rand(STEPS * B, F, generator=generator) < 0.05)
    x = codes @ directions + 0.1 * torch.randn(STEPS * B, D, generator=generator)
    return list((x / x.pow(2).sum(1).mean().sqrt()).split(B))


def recipe(**changes: Any) -> RecipeConfig:
    return RecipeConfig(
        lr_warmup_steps=20, lr_warmup_fraction=1.0, sparsity_warmup_steps=40, sparsity_warmup_fraction=1.0,
        bandwidth=0.02, **changes,
    )  # fmt: skip


def train(sae: JumpReLUSAE, recipe: RecipeConfig) -> list[float]:
    """The losses of `STEPS` steps."""
    module = SAETraining(sae, recipe, target_l0=8, steps=STEPS, mean_D=torch.zeros(D))
    losses: list[float] = []

    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs: Any, batch, batch_idx):
            losses.append(outputs["loss"].item())

    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Keep()],
    )  # fmt: skip
    loader: Any = batches()
    trainer.fit(module, train_dataloaders=torch.utils.data.DataLoader(loader, batch_size=None))
    return losses


@pytest.mark.slow
def test_200_steps_agree(peer_trainer):
    torch.manual_seed(0)
    peer = peer_trainer(
        steps=STEPS, activation_dim=D, dict_size=F, layer=0, lm_name="none", lr=3e-4, warmup_steps=20,
        sparsity_warmup_steps=40, decay_start=160, target_l0=8.0, bandwidth=0.02,
    )  # fmt: skip
    sae = JumpReLUSAE(D, F)
    sae.load_state_dict({**peer.ae.state_dict(), "scale": torch.tensor(1.0)})
    losses = train(sae, recipe(step_on="post", positive_threshold=False, fast=False))
    theirs = [peer.update(step, x) for step, x in enumerate(batches())]
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(theirs), rtol=1e-4, atol=0)
    for name, value in peer.ae.state_dict().items():
        ours = sae.state_dict()[name]
        assert (ours - value).norm() <= 1e-4 * value.norm(), name


@pytest.mark.parametrize(
    ("product", "dense_above", "median", "largest", "weights"),
    [
        (exact_products, -1.0, 1e-5, 5e-3, 1e-3),
        (exact_products, 2.0, 1e-5, 5e-3, 1e-3),
        (rounded_products, -1.0, 3e-4, 1e-2, 5e-3),
        (rounded_products, 2.0, 3e-4, 5e-3, 3e-3),
    ],
)
def test_the_fast_path_follows_the_plain_one_for_200_steps(monkeypatch, product, dense_above, median, largest, weights):
    """To rounding: weights that start 1e-6 apart give losses up to 1e-3 apart where a pair crosses its threshold."""
    monkeypatch.setattr("saemd.sae.products.encode", product)
    monkeypatch.setattr("saemd.sae.products.halves_are_faster", lambda: product is rounded_products)
    monkeypatch.setattr("saemd.sae.products.onednn", nullcontext)  # with AMX it rounds factors
    monkeypatch.setattr("saemd.sae.fast.dense_above", lambda decoder_bytes: dense_above)
    saes, losses = [], []
    for fast in (False, True):
        sae = JumpReLUSAE(D, F)
        with torch.no_grad():
            rows = torch.randn(F, D, generator=torch.Generator().manual_seed(0))
            sae.W_dec.copy_(rows / rows.norm(dim=1, keepdim=True))
            sae.W_enc.copy_(sae.W_dec.T)
        losses.append(train(sae, recipe(fast=fast)))
        saes.append(sae)
    plain, found = torch.tensor(losses[0]), torch.tensor(losses[1])
    apart = (found - plain).abs() / plain
    assert apart.median() < median
    assert apart.max() < largest
    for name, value in saes[0].named_parameters():
        assert (saes[1].state_dict()[name] - value).norm() <= weights * value.norm(), name
