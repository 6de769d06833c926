"""The SAE itself: both forms, folding, saving, and what the initialisations promise."""

import json

import pytest
import torch

from saemd.errors import UserError
from saemd.sae import INITS, JumpReLUSAE, Sources, build, load_sae, save_sae
from saemd.sae.config import InitConfig, MirrorConfig
from tests.test_sae_loss import batch, random_sae

D, M = 12, 30


def sources(d_sae: int = 2 * M, post_norm: torch.Tensor | None = None) -> Sources:
    generator = torch.Generator().manual_seed(3)
    U = torch.randn(D, M, generator=generator)
    return Sources(D, d_sae, lambda: (U, post_norm), lambda: batch(500, D) / D**0.5)


def start(
    name: str = "mirror", encoder: str = "tied", seed: int = 0, given: Sources | None = None, **keys
) -> JumpReLUSAE:
    kind = MirrorConfig if name == "mirror" else InitConfig
    config = kind(name=name, label=name, encoder=encoder, **keys)
    return build(config, given or sources(), seed=seed, scale=1.0, bias="separate")


@pytest.mark.parametrize("bias", ["separate", "shared"])
def test_folding_keeps_latents_and_reconstruction(bias):
    sae = random_sae(bias=bias, threshold=0.3)
    sae.scale.fill_(7.0)
    x = 7 * batch()
    folded = sae.folded()
    torch.testing.assert_close(folded(x), sae(x), rtol=1e-4, atol=1e-4)
    assert torch.equal(folded.encode(x) > 0, sae.encode(x) > 0)
    torch.testing.assert_close(folded.W_dec.norm(dim=1), torch.ones(40))
    torch.testing.assert_close(folded.folded()(x), folded(x))


def test_shared_bias_is_subtracted_and_added():
    sae = random_sae(bias="shared")
    x = batch(1)
    pre = (x - sae.b_dec) @ sae.W_enc
    z = torch.where(pre > sae.threshold, pre, 0)
    torch.testing.assert_close(sae(x), z @ sae.W_dec + sae.b_dec)


def test_save_and_load(tmp_path):
    sae = random_sae()
    sae.scale.fill_(3.0)
    save_sae(sae, tmp_path / "run", {"model_name": "m"})
    torch.testing.assert_close(load_sae(tmp_path / "run")(batch()), sae(batch()), rtol=1e-4, atol=1e-4)
    metadata = json.loads((tmp_path / "run" / "cfg.json").read_text())["metadata"]
    assert metadata == {"sae_lens_version": "6.0.0", "sae_lens_training_version": None, "model_name": "m"}
    with pytest.raises(UserError, match="there is no such file"):
        load_sae(tmp_path)


def test_mirror_is_the_mlp_and_its_mirror_image():
    given = sources()
    U = given.mlp_decoder()[0]
    W_dec = start(given=given).W_dec
    torch.testing.assert_close(W_dec[:M], (U / U.norm(dim=0)).T)
    assert torch.equal(W_dec[M:], -W_dec[:M])
    assert torch.equal(start(seed=1).W_dec, W_dec)


def test_mirror_folds_the_post_norm():
    g = 1 + torch.rand(D)
    W_dec = start(given=sources(post_norm=g), fold_postnorm=True).W_dec
    U = sources().mlp_decoder()[0] * g[:, None]
    torch.testing.assert_close(W_dec[:M], (U / U.norm(dim=0)).T)
    with pytest.raises(UserError, match="fold_postnorm"):
        start(fold_postnorm=True)


def test_mirror_refuses_another_width():
    with pytest.raises(UserError, match=r"d_sae=50: .*2m=60"):
        start(given=sources(d_sae=50))


def test_uniform_follows_its_seed_alone():
    first = start("uniform", seed=1).W_dec
    torch.manual_seed(99)
    assert torch.equal(start("uniform", seed=1).W_dec, first)
    assert not torch.allclose(start("uniform", seed=2).W_dec, first)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(2 * M))


@pytest.mark.parametrize("name", sorted(INITS))
def test_encoders(name):
    x = sources().sample()

    def error(sae):
        return (sae(x) - x).pow(2).sum().item()

    saes = {encoder: start(name, encoder, threshold=0.0) for encoder in ("tied", "gain", "dual")}
    assert torch.equal(saes["tied"].W_enc, saes["tied"].W_dec.T)
    for factor in (0.99, 1.01):  # the gain is the optimum
        other = start(name, "gain", threshold=0.0)
        with torch.no_grad():
            other.W_enc.mul_(factor)
        assert error(saes["gain"]) < error(other)
    if name == "mirror":
        torch.testing.assert_close(saes["dual"](x), x, rtol=1e-3, atol=1e-4)


def test_unknown_encoder_names_the_known_ones():
    with pytest.raises(UserError, match=r"init.encoder=own: known are tied, gain, dual"):
        start(encoder="own")
