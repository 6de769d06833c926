"""A start that is another SAE gives the same reconstructions, whatever the two runs' scales."""

import re

import pytest
import torch

from saemd.errors import UserError
from saemd.sae import ARCHITECTURES, JumpReLUSAE, save_sae
from saemd.sae.starts import INITS
from saemd.sae.starts.saved import SavedConfig
from tests.sae.starts.given import D, M, sources, start


@pytest.fixture
def folder(tmp_path):
    sae = JumpReLUSAE(D, 2 * M, scale=3.0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator).abs() * 0.1)
    save_sae(sae, tmp_path / "sae")
    return tmp_path / "sae", sae


def test_it_is_the_same_sae(folder):
    path, sae = folder
    begun = start("saved", sae=str(path))
    begun.scale.fill_(sources().scale)  # `start` builds with a scale of 1
    x_BD = torch.randn(64, D, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(begun(x_BD), sae(x_BD), rtol=1e-4, atol=1e-5)
    assert not torch.equal(begun.b_dec, sae.b_dec)


def test_what_does_not_fit_is_refused_before_anything_is_trained(folder, tmp_path):
    check, shape = INITS["saved"].check, sources().model
    make = SavedConfig
    for config, d_sae, message in (
        (make(), 2 * M, "init.sae=…: name the folder"),
        (make(sae=str(tmp_path / "no")), 2 * M, "no SAE can be read there"),
        (make(sae=str(folder[0])), 3, f"d_sae=3: init.sae={folder[0]} has {2 * M} latents; write d_sae={2 * M}"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            check(config, shape, d_sae)


def test_other_parameters_are_refused(tmp_path):
    save_sae(ARCHITECTURES["gated"](D, 2 * M), tmp_path)
    with pytest.raises(UserError, match="its architecture also has"):
        start("saved", sae=str(tmp_path))
