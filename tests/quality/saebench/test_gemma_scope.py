"""Gemma Scope's files: read without pickle, and refused where they are something else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saemd.errors import UserError
from saemd.quality.saebench import gemma_scope
from saemd.sae import JumpReLUSAE
from tests.quality.saebench.scripted import small_sae


def save_npz(path: Path, sae: JumpReLUSAE, **changed: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: getattr(sae, name).detach().numpy() for name in gemma_scope.PARAMETERS}
    np.savez(path, **{name: value for name, value in {**weights, **changed}.items() if value is not None})
    return path


def test_gemma_scope_is_read_as_it_was_written(tmp_path):
    sae, x = small_sae(), torch.randn(50, 6)
    path = save_npz(tmp_path / gemma_scope.member(82), sae)
    assert gemma_scope.locate(82, str(tmp_path)) == path
    assert gemma_scope.layer_of(path) == 12
    read = gemma_scope.read_params(path)
    torch.testing.assert_close(read.encode(x), sae.encode(x))
    torch.testing.assert_close(read(x), sae(x))
    assert (read.W_dec.norm(dim=1) - 1).abs().max() < 1e-6


class Trap:
    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def test_gemma_scope_files_that_are_something_else_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sae = small_sae()
    with pytest.raises(UserError, match="threshold is not a file in the archive"):
        gemma_scope.read_params(save_npz(tmp_path / "a.npz", sae, threshold=None))
    with pytest.raises(UserError, match=r"b_enc has shape \(6,\), not \(10,\)"):
        gemma_scope.read_params(save_npz(tmp_path / "b.npz", sae, b_enc=np.zeros(6)))
    trap = save_npz(tmp_path / "c.npz", sae, b_enc=np.array([Trap()], dtype=object))
    with pytest.raises(UserError, match="cannot be read"):
        gemma_scope.read_params(trap)
    assert not Path("unpickled").exists()
    (tmp_path / "d.npz").write_text("no archive")
    with pytest.raises(UserError, match=r"gemma_scope=.*d.npz: cannot be read"):
        gemma_scope.read_params(tmp_path / "d.npz")
    with pytest.raises(UserError, match="holds no layer_12/width_16k/average_l0_22"):
        gemma_scope.locate(22, str(tmp_path))
