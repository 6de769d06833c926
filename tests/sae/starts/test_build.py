"""The SAE itself: both forms, folding, saving, and what the initialisations promise."""

import json

import pytest
import torch

from saemd.errors import UserError
from saemd.sae import (
    ARCHITECTURES,
    INITS,
    InitConfig,
    JumpReLUConfig,
    Progress,
    Sources,
    Start,
    build,
    initializer,
    load_sae,
    save_sae,
)
from tests.sae.starts.given import MADE, D, M, sources, start
from tests.sae.test_jumprelu import batch, random_sae


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
    U = given.mlp_decoder(None)[0]
    W_dec = start(drawn=given).W_dec
    torch.testing.assert_close(W_dec[:M], (U / U.norm(dim=0)).T)
    assert torch.equal(W_dec[M:], -W_dec[:M])
    assert torch.equal(start(drawn=sources(seed=1)).W_dec, W_dec)


def test_mirror_folds_the_post_norm():
    g = 1 + torch.rand(D)
    W_dec = start(drawn=sources(post_norm=g), fold_postnorm=True).W_dec
    U = sources().mlp_decoder(None)[0] * g[:, None]
    torch.testing.assert_close(W_dec[:M], (U / U.norm(dim=0)).T)
    with pytest.raises(UserError, match="fold_postnorm"):
        start(fold_postnorm=True)


def test_mirror_refuses_another_width():
    with pytest.raises(UserError, match=r"d_sae=50: .*2m=60"):
        start(drawn=sources(d_sae=50))


def test_uniform_follows_its_seed_alone():
    first = start("uniform", drawn=sources(seed=1)).W_dec
    torch.manual_seed(99)
    assert torch.equal(start("uniform", drawn=sources(seed=1)).W_dec, first)
    assert not torch.allclose(start("uniform", drawn=sources(seed=2)).W_dec, first)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(2 * M))


@pytest.mark.parametrize("name", MADE)
def test_encoders(name):
    x = sources().sample()

    def error(sae):
        return (sae(x) - x).pow(2).sum().item()

    saes = {encoder: start(name, encoder, theta=0.0) for encoder in ("tied", "gain", "dual")}
    assert torch.equal(saes["tied"].W_enc, saes["tied"].W_dec.T)
    for factor in (0.99, 1.01):  # the gain is the optimum
        other = start(name, "gain", theta=0.0)
        with torch.no_grad():
            other.W_enc.mul_(factor)
        assert error(saes["gain"]) < error(other)
    W_dec = saes["dual"].W_dec
    if torch.equal(W_dec[:M], -W_dec[M:]):
        torch.testing.assert_close(saes["dual"](x), x, rtol=1e-3, atol=1e-4)


def test_unknown_encoder_names_the_known_ones():
    with pytest.raises(UserError, match=r"init.encoder=own: known are tied, gain, dual"):
        start(encoder="own")


@pytest.fixture
def registered(monkeypatch):
    """Starts of a test's own, gone after it."""
    monkeypatch.setattr("saemd.sae.starts.base.INITS", dict(INITS))


def test_a_start_gives_every_parameter(registered, tmp_path):
    """Of another layer's MLP, of another SAE, shared noise, θ and both biases: one function, no other file."""
    saved = random_sae()
    save_sae(saved, tmp_path)

    @initializer()
    def mine(config: InitConfig, sources: Sources) -> Start:
        noise = torch.rand(1, generator=sources.shared_generator)
        other = sources.saved_sae(str(tmp_path))
        W_dec = torch.cat([sources.mlp_decoder(7)[0].T, other.W_dec[:M]]) + noise
        return Start(
            W_dec, W_dec.T + 1, b_enc=torch.ones(2 * M), b_dec=torch.ones(D), threshold=torch.full((2 * M,), 0.5)
        )

    config = InitConfig(name="mine", label="mine")
    first, second = (build(config, JumpReLUConfig(), sources(seed=seed), target_l0=4, scale=1.0) for seed in (1, 2))
    torch.testing.assert_close(first.W_enc, first.W_dec.T + 1)
    assert first.get_parameter("threshold").unique().tolist() == [0.5]
    assert first.b_dec.unique().tolist() == [1.0]
    for name, value in first.named_parameters():
        assert torch.equal(value, second.get_parameter(name)), name


def test_a_start_of_another_shape_is_refused(registered):
    @initializer()
    def narrow(config: InitConfig, sources: Sources) -> Start:
        return Start(torch.ones(3, D))

    with pytest.raises(UserError, match=r"init=n: W_dec of shape \[3, 12\].*\[60, 12\]"):
        build(InitConfig(name="narrow", label="n"), JumpReLUConfig(), sources(), target_l0=4, scale=1.0)


def test_a_start_without_the_architectures_parameter_is_refused(registered):
    @initializer()
    def with_bias(config: InitConfig, sources: Sources) -> Start:
        return Start(torch.ones(2 * M, D), b_enc=torch.ones(2 * M))

    config = InitConfig(name="with_bias", label="w")
    with pytest.raises(UserError, match="init=w: gives b_enc, which sae=jumprelu has not"):
        build(config, JumpReLUConfig(bias="shared"), sources(), target_l0=4, scale=1.0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_takes_every_start(architecture):
    config = ARCHITECTURES[architecture].Config(name=architecture)
    for name in MADE:
        init = INITS[name]
        sae = build(init.Config(name=name, label=name), config, sources(), target_l0=4, scale=1.0)
        sae.objective(batch(20, D), Progress(0, 10)).total.backward()
        assert sae.W_enc.grad is not None, name
        assert sae.W_enc.grad.isfinite().all(), name
