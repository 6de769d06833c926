"""Every architecture against dictionary_learning 0.1.0's own trainer, from its published wheel."""

import importlib
import sys
import types
from contextlib import nullcontext
from typing import Any

import lightning as pl
import pytest
import torch

from saemd.packages import Package, fetch_package
from saemd.sae import ARCHITECTURES, SAE, JumpReLUConfig, JumpReLUSAE
from saemd.training.config import RecipeConfig
from saemd.training.module import SAETraining
from tests.sae.encoder_products import exact_products, rounded_products

PEER = Package(
    "dictionary-learning", "0.1.0", "211116f9cc6fde643ea447f11da1c1ea9d0174dd9460e2031ae95b2724622ca5"
)  # fmt: skip
STEPS, B, D, F = 200, 128, 24, 96
SETTINGS: dict[str, Any] = {
    "steps": STEPS, "activation_dim": D, "dict_size": F, "layer": 0, "lm_name": "none", "lr": 3e-4, "warmup_steps": 20,
    "decay_start": 160, "device": "cpu",
}  # fmt: skip


@pytest.fixture
def peer(monkeypatch, cache_root):
    """Its module `trainers.<name>`, from the archive; the root imports nnsight, which training never calls."""
    monkeypatch.syspath_prepend(str(fetch_package(PEER, cache_root)))
    nnsight = types.ModuleType("nnsight")
    nnsight.LanguageModel = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nnsight", nnsight)
    return lambda name: importlib.import_module(f"dictionary_learning.trainers.{name}")


def batches() -> list[torch.Tensor]:
    """Sparse mixtures of fixed directions, mean squared norm 1, as normalised activations have."""
    generator = torch.Generator().manual_seed(5)
    directions = torch.randn(F, D, generator=generator)
    codes = torch.rand(STEPS * B, F, generator=generator) * (torch.rand(STEPS * B, F, generator=generator) < 0.05)
    x = codes @ directions + 0.1 * torch.randn(STEPS * B, D, generator=generator)
    return list((x / x.pow(2).sum(1).mean().sqrt()).split(B))


def jumprelu(**changes: Any) -> JumpReLUSAE:
    config = JumpReLUConfig(
        sparsity_warmup_steps=40, sparsity_warmup_fraction=1.0, bandwidth=0.02, **changes,
    )  # fmt: skip
    return JumpReLUSAE(D, F, config, target_l0=8)


def train(sae: SAE, fast: bool, **changes: Any) -> list[float]:
    """The losses of `STEPS` steps."""
    recipe = RecipeConfig(lr_warmup_steps=20, lr_warmup_fraction=1.0, fast=fast, **changes)
    module = SAETraining(sae, recipe, steps=STEPS, mean_D=torch.zeros(D))
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
def test_200_steps_of_jumprelu_agree(peer):
    torch.manual_seed(0)
    trainer = peer("jumprelu").JumpReluTrainer(
        **SETTINGS, sparsity_warmup_steps=40, target_l0=8.0, bandwidth=0.02,
    )  # fmt: skip
    sae = jumprelu(step_on="post", positive_threshold=False)
    sae.load_state_dict({**trainer.ae.state_dict(), "scale": torch.tensor(1.0)})
    losses = train(sae, fast=False)
    theirs = [trainer.update(step, x) for step, x in enumerate(batches())]
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(theirs), rtol=1e-4, atol=0)
    for name, value in trainer.ae.state_dict().items():
        ours = sae.state_dict()[name]
        assert (ours - value).norm() <= 1e-4 * value.norm(), name


def topk_names(theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        "W_enc": theirs["encoder.weight"].T, "b_enc": theirs["encoder.bias"], "W_dec": theirs["decoder.weight"].T,
        "b_dec": theirs["b_dec"],
    }  # fmt: skip


def gated_names(theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        "W_enc": theirs["encoder.weight"].T, "W_dec": theirs["decoder.weight"].T, "b_dec": theirs["decoder_bias"],
        "b_gate": theirs["gate_bias"], "b_mag": theirs["mag_bias"], "r_mag": theirs["r_mag"],
    }  # fmt: skip


ESTIMATE = {"threshold_beta": 0.999, "threshold_start_steps": 20, "threshold_start_fraction": 0.9}
THIRDS = [0.25, 0.25, 0.5]
PEERS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any], Any]] = {
    "topk": ("top_k", "TopKTrainer", {"k": 2}, {}, topk_names),
    "batch_topk": ("batch_top_k", "BatchTopKTrainer", {"k": 2, "threshold_start_step": 20}, ESTIMATE, topk_names),
    "matryoshka_batch_topk": (
        "matryoshka_batch_top_k",
        "MatryoshkaBatchTopKTrainer",
        {"k": 2, "threshold_start_step": 20, "group_fractions": THIRDS},
        {**ESTIMATE, "group_fractions": THIRDS, "group_weights": [1 / 9] * 3},  # the mean of weights of 1/3
        lambda theirs: {name: theirs[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")},
    ),
    "gated": (
        "gdm",
        "GatedSAETrainer",
        {"l1_penalty": 0.3, "sparsity_warmup_steps": 40},
        {"sparsity_coefficient": 0.3, "sparsity_warmup_steps": 40, "sparsity_warmup_fraction": 1.0, "seek_l0": 0.0},
        gated_names,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_200_steps_agree(peer, name):
    """From equal weights and batches; latents that are silent in one batch count as dead, so that AuxK takes part."""
    module, cls, theirs, ours, names = PEERS[name]
    torch.manual_seed(0)
    trainer = getattr(peer(module), cls)(**SETTINGS, **theirs)
    config = ARCHITECTURES[name].Config(**ours)
    if hasattr(trainer, "dead_feature_threshold"):
        trainer.dead_feature_threshold = config.dead_after_tokens = B  # type: ignore[attr-defined]
    sae = ARCHITECTURES[name](D, F, config, target_l0=theirs.get("k", 8))
    with torch.no_grad():
        for key, value in names(trainer.ae.state_dict()).items():
            sae.get_parameter(key).copy_(value)
        sae.fill_defaults(lambda: batches()[0])
    clip = {"grad_clip_norm": 1e9} if name == "gated" else {}  # its trainer does not clip
    losses = train(sae, fast=False, **clip)
    their_losses = []
    for step, x in enumerate(batches()):
        if name == "gated":
            their_losses.append(trainer.loss(x, step).item())
        loss = trainer.update(step, x)
        if name != "gated":
            their_losses.append(loss)
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(their_losses), rtol=1e-4, atol=0)
    for key, value in names(trainer.ae.state_dict()).items():
        assert (sae.get_parameter(key) - value).norm() <= 1e-4 * value.norm(), key
    if hasattr(sae, "threshold"):
        torch.testing.assert_close(sae.get_buffer("threshold"), trainer.ae.threshold, rtol=1e-4, atol=0)
    if hasattr(sae, "tokens_silent"):
        assert torch.equal(sae.get_buffer("tokens_silent"), trainer.num_tokens_since_fired)
        assert (sae.get_buffer("tokens_silent") > 0).any(), "AuxK had something to do"


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
    monkeypatch.setattr("saemd.sae.jumprelu_fast.encoder.encode", product)
    monkeypatch.setattr("saemd.sae.products.halves_are_faster", lambda: product is rounded_products)
    monkeypatch.setattr("saemd.sae.products.onednn", nullcontext)  # with AMX it rounds factors
    monkeypatch.setattr("saemd.sae.jumprelu_fast.cpu.dense_above", lambda decoder_bytes: dense_above)
    saes, losses = [], []
    for fast in (False, True):
        sae = jumprelu()
        with torch.no_grad():
            rows = torch.randn(F, D, generator=torch.Generator().manual_seed(0))
            sae.W_dec.copy_(rows / rows.norm(dim=1, keepdim=True))
            sae.W_enc.copy_(sae.W_dec.T)
        losses.append(train(sae, fast))
        saes.append(sae)
    plain, found = torch.tensor(losses[0]), torch.tensor(losses[1])
    apart = (found - plain).abs() / plain
    assert apart.median() < median
    assert apart.max() < largest
    for name, value in saes[0].named_parameters():
        assert (saes[1].state_dict()[name] - value).norm() <= weights * value.norm(), name
