"""SAEs that other libraries saved: read to the same latents, or refused in one line; and where they are found."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from saemd import load_sae
from saemd.errors import UserError
from saemd.sae.export import matrices, sae_shape
from saemd.sae.formats import hub
from tests.sae.foreign import (
    WRITERS,
    D,
    F,
    K,
    batch,
    dictionary,
    linear,
    new,
    saelens,
    weights,
    write_gemma_scope,
    write_sparsify,
)  # fmt: skip


@pytest.mark.parametrize("form", WRITERS)
def test_latents_and_reconstructions_are_the_librarys(form, tmp_path):
    w, encode = WRITERS[form](tmp_path)
    sae, x = load_sae(tmp_path), batch()
    z = encode(x)
    assert 0.05 < (z > 0).float().mean() < 0.95
    torch.testing.assert_close(sae.encode(x), z, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae(x), z @ w["W_dec"] + w["b_dec"], rtol=1e-5, atol=1e-5)
    assert sae_shape(tmp_path) == (D, F)
    for found, name in zip(matrices(tmp_path), ("W_enc", "W_dec"), strict=True):
        axis = 0 if name == "W_enc" else 1
        cosine = torch.nn.functional.cosine_similarity(found, w[name], dim=axis).abs()
        torch.testing.assert_close(cosine, torch.ones(F))


def test_a_file_in_the_folder_names_it_too(tmp_path):
    write_gemma_scope(tmp_path)
    assert load_sae(tmp_path / "params.npz").d_sae == F


INEXACT = {
    "layer_norm": lambda folder: saelens(folder, weights(), **new("standard", normalize_activations="layer_norm")),
    "abstopk": lambda folder: saelens(folder, weights(), **new("abstopk", k=K)),
    "tanh-relu": lambda folder: saelens(folder, weights(), hook_point="x", activation_fn_str="tanh-relu"),
    "groupmax": lambda folder: write_sparsify(folder, activation="groupmax"),
    "signed topk": lambda folder: write_sparsify(folder, signed=True),
}


@pytest.mark.parametrize("what", INEXACT)
def test_what_cannot_be_computed_here_has_directions_alone(what, tmp_path):
    INEXACT[what](tmp_path)
    assert torch.equal(matrices(tmp_path)[1], weights()["W_dec"])
    with pytest.raises(UserError, match=rf"{what}; no architecture here computes its latents") as raised:
        load_sae(tmp_path)
    assert "\n" not in str(raised.value)


class Opened:
    """What a pickle could run."""

    def __reduce__(self):
        return (Path.touch, (Path("/tmp/opened-by-a-pickle"),))


REFUSED = {
    "transcoder": (lambda folder: write_sparsify(folder, transcode=True), "a transcoder"),
    "skip": (lambda folder: write_sparsify(folder, skip_connection=True), "a skip connection"),
    "saelens transcoder": (lambda folder: saelens(folder, weights(), **new("transcoder")), "architecture=transcoder"),
    "crosscoder": (lambda folder: dictionary(folder, "CrossCoder", weights()), "dict_class=CrossCoder"),
    "no config": (lambda folder: dictionary(folder, None, {**linear(weights(), b_dec="b_dec"), "k": torch.tensor(K)}),
                  "config.json is missing"),
    "pickle": (lambda folder: torch.save({"W_enc": Opened()}, folder / "ae.pt"), "no file of tensors alone"),
    "text": (lambda folder: (folder / "ae.pt").write_text("no"), "ae.pt: "),
    "cut": (lambda folder: (folder / "params.npz").write_bytes(b"PK\x03\x04"), "params.npz: cannot be read"),
    "objects": (lambda folder: np.savez(folder / "params.npz", W_enc=np.array([{}], dtype=object)), "cannot be read"),
    "lacks": (lambda folder: dictionary(folder, "JumpReluAutoEncoder", weights()), "lacks threshold"),
    "shape": (lambda folder: saelens(folder, {**weights(), "W_dec": torch.ones(F, D + 1)}, **new("standard")),
              r"W_dec of shape \(20, 7\) does not fit d_in=6, d_sae=20"),
    "d_sae": (lambda folder: saelens(folder, weights(), **new("standard", d_sae=F + 1)), "says d_sae=21"),
    "k": (lambda folder: write_sparsify(folder, k=F + 1), "k=21 does not fit d_sae=20"),
    "unknown": (lambda folder: (folder / "sae.pt").touch(), r"known are .*ae.pt \(dictionary_learning\).*found sae.pt"),
    "empty": (lambda folder: None, "the folder is empty"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_sae_takes_one_line(case, tmp_path):
    write, pattern = REFUSED[case]
    write(tmp_path)
    with pytest.raises(UserError, match=pattern) as raised:
        load_sae(tmp_path)
    assert "\n" not in str(raised.value)
    assert not Path("/tmp/opened-by-a-pickle").exists()


@pytest.fixture
def hub_cache(tmp_path, monkeypatch) -> Path:
    """A repository as the hub's own client keeps it, and no network."""
    from huggingface_hub import constants

    commit = "0" * 40
    repository = tmp_path / "hub" / "models--me--saes"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return repository / "snapshots" / commit


def test_hub_addresses(hub_cache, tmp_path, monkeypatch):
    folder = hub_cache / "layer_20" / "width_16k"
    folder.mkdir(parents=True)
    w, _ = write_gemma_scope(folder)
    assert torch.equal(load_sae("hf://me/saes/layer_20/width_16k").W_dec, w["W_dec"])
    release = {"repo_id": "me/saes", "saes": [{"id": "layer_20/canonical", "path": "layer_20/width_16k"}]}
    monkeypatch.setattr(hub, "_releases", lambda: {"my-release": release})
    monkeypatch.chdir(tmp_path)
    assert torch.equal(load_sae("my-release/layer_20/canonical").W_dec, w["W_dec"])
    for address, line in {
        "my-release/layer_21": "my-release/layer_21: SAELens's release my-release has layer_20/canonical; write",
        "hf://me": r"hf://me: write hf://<organisation>/<repository>/<folder>",
        "hf://me/others/x": r"hf://me/others/x: the hub did not give me/others \(.*\); check the name",
        "hf://me/saes/layer_3": r".*layer_3/sae_weights.safetensors: there is no such file, nor one",
        "other-release/x": r"other-release/x/.*SAELens's releases: install sae-lens",
    }.items():
        with pytest.raises(UserError) as raised:
            load_sae(address)
        assert re.match(line, str(raised.value)), raised.value
        assert "\n" not in str(raised.value)


def test_releases_come_out_of_the_installed_table(tmp_path, monkeypatch):
    (tmp_path / "sae_lens").mkdir()
    (tmp_path / "sae_lens" / "__init__.py").write_text("raise RuntimeError('is not imported')")
    table = "one:\n  repo_id: me/saes\n  saes:\n  - {id: a, path: layer_0/a}\n"
    (tmp_path / "sae_lens" / "pretrained_saes.yaml").write_text(table)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(hub, "_releases", hub._releases.__wrapped__)
    assert hub.is_on_hub("one/a")
    assert not hub.is_on_hub("two/a")
    assert hub._place("one/a") == ("me/saes", "layer_0/a")
