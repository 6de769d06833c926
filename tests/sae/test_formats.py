"""SAEs as other libraries save them, written by hand in each library's form and held to each library's formula."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from saemd import load_sae
from saemd.errors import UserError
from saemd.sae.export import matrices, sae_shape
from saemd.sae.formats import hub

D, F, K = 6, 20, 4
Latents = Callable[[Tensor], Tensor]


def weights(**shapes: int) -> dict[str, Tensor]:
    """W_enc, W_dec (rows of any norm), b_enc and b_dec, and further vectors of these sizes."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"W_enc": (D, F), "W_dec": (F, D), "b_enc": (F,), "b_dec": (D,)}
    sizes |= {name: (size,) for name, size in shapes.items()}
    return {name: torch.randn(size, generator=generator) for name, size in sizes.items()}


def batch() -> Tensor:
    return torch.randn(50, D, generator=torch.Generator().manual_seed(1))


def topk(pre: Tensor) -> Tensor:
    top = torch.relu(pre).topk(K, dim=-1)
    return torch.zeros_like(pre).scatter(-1, top.indices, top.values)


def saelens(folder: Path, stored: dict[str, Tensor], **config: Any) -> None:
    save_file({name: value.contiguous() for name, value in stored.items()}, folder / "sae_weights.safetensors")
    about = {"d_in": D, "d_sae": F, "dtype": "float32", **config}
    (folder / "cfg.json").write_text(json.dumps(about))


def new(architecture: str, **config: Any) -> dict[str, Any]:
    """The keys of SAELens 6."""
    metadata = {"sae_lens_version": "6.54.12", "sae_lens_training_version": "6.54.12"}
    defaults = {"apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none"}
    return {"architecture": architecture, **defaults, "metadata": metadata, **config}


def write_saelens_standard(folder: Path) -> tuple[dict[str, Tensor], Latents]:
    w = weights()
    saelens(folder, w, **new("standard"))
    return w, lambda x: torch.relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])


def write_saelens_before_6(folder: Path) -> tuple[dict[str, Tensor], Latents]:
    """Without an architecture, and with a factor of each latent that a later fine-tuning found."""
    w = weights(scaling_factor=F)
    saelens(folder, w, hook_point="blocks.0.hook_resid_pre", activation_fn_str="relu", normalize_activations=False)
    w["W_dec"] = w["W_dec"] * w["scaling_factor"][:, None]
    return w, lambda x: torch.relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])


def write_saelens_old_topk(folder: Path) -> tuple[dict[str, Tensor], Latents]:
    w = weights()
    saelens(folder, w, hook_name="x", activation_fn_str="topk", activation_fn_kwargs={"k": K})
    return w, lambda x: topk((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])


def write_saelens_topk(folder: Path) -> tuple[dict[str, Tensor], Latents]:
    """Latents times the norms of decoder rows, which are divided by them."""
    w = weights()
    saelens(folder, w, **new("topk", k=K, rescale_acts_by_decoder_norm=True, apply_b_dec_to_input=False))
    norm = w["W_dec"].norm(dim=1)
    encode = lambda x: topk((x @ w["W_enc"] + w["b_enc"]) * norm)  # noqa: E731
    return {**w, "W_dec": w["W_dec"] / norm[:, None]}, encode


def write_saelens_jumprelu(folder: Path) -> tuple[dict[str, Tensor], Latents]:
    """θ in log space, as checkpoints of before have it; b_dec subtracted."""
    w = weights(log_threshold=F)
    saelens(folder, w, **new("jumprelu"))

    def encode(x: Tensor) -> Tensor:
        pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
        return torch.relu(pre) * (pre > w["log_threshold"].exp())

    return w, encode


def write_saelens_below_0(folder: Path) -> tuple[dict[str, Tensor], Latents]:
    """A ReLU comes before θ, so latents are not negative where θ is."""
    w = weights(threshold=F)
    saelens(folder, w, **new("jumprelu", apply_b_dec_to_input=False))

    def encode(x: Tensor) -> Tensor:
        pre = x @ w["W_enc"] + w["b_enc"]
        return torch.relu(pre) * (pre > w["threshold"])

    return w, encode


def write_saelens_batchtopk(folder: Path) -> tuple[dict[str, Tensor], Latents]:
    """A checkpoint: one threshold, of the latents times the norms of their decoder rows."""
    w = weights()
    stored = {**w, "topk_threshold": torch.tensor(1.5)}
    saelens(folder, stored, **new("matryoshka_batchtopk", k=K, rescale_acts_by_decoder_norm=True))
    norm = w["W_dec"].norm(dim=1)

    def encode(x: Tensor) -> Tensor:
        pre = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * norm
        return pre * (pre > 1.5)

    return {**w, "W_dec": w["W_dec"] / norm[:, None]}, encode


def gate(w: dict[str, Tensor], y: Tensor) -> Tensor:
    p = y @ w["W_enc"]
    return (p + w["b_gate"] > 0) * torch.relu(w["r_mag"].exp() * p + w["b_mag"])


def write_saelens_gated(folder: Path) -> tuple[dict[str, Tensor], Latents]:
    w = weights(b_gate=F, b_mag=F, r_mag=F)
    del w["b_enc"]
    saelens(folder, w, **new("gated", apply_b_dec_to_input=False))
    return w, lambda x: gate(w, x)


def dictionary(folder: Path, name: str | None, stored: dict[str, Tensor], **trainer: Any) -> None:
    torch.save(stored, folder / "ae.pt")
    if name:
        (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": name, **trainer}, "buffer": {}}))


def linear(w: dict[str, Tensor], **names: str) -> dict[str, Tensor]:
    """The matrices as `nn.Linear` has them, b_enc as the encoder's bias, and others under these names."""
    matrices = {"encoder.weight": w["W_enc"].T, "decoder.weight": w["W_dec"].T}
    bias = {"encoder.bias": w["b_enc"]} if "b_enc" in w else {}
    return {**matrices, **bias, **{theirs: w[ours] for theirs, ours in names.items()}}


def write_autoencoder(folder: Path) -> tuple[dict[str, Tensor], Latents]:
    """Its decoder has unit rows once it is loaded."""
    w = weights()
    dictionary(folder, "AutoEncoder", linear(w, bias="b_dec"))
    norm = w["W_dec"].norm(dim=1)
    encode = lambda x: torch.relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * norm  # noqa: E731
    return {**w, "W_dec": w["W_dec"] / norm[:, None]}, encode


def write_autoencoder_new(folder: Path) -> tuple[dict[str, Tensor], Latents]:
    w = weights()
    dictionary(folder, None, linear(w, **{"decoder.bias": "b_dec"}))
    return w, lambda x: torch.relu(x @ w["W_enc"] + w["b_enc"])


def write_gated(folder: Path) -> tuple[dict[str, Tensor], Latents]:
    w = weights(b_gate=F, b_mag=F, r_mag=F)
    del w["b_enc"]
    dictionary(folder, None, linear(w, decoder_bias="b_dec", gate_bias="b_gate", mag_bias="b_mag", r_mag="r_mag"))
    return w, lambda x: gate(w, x - w["b_dec"])


def write_topk(folder: Path) -> tuple[dict[str, Tensor], Latents]:
    """Its own k, and a threshold that its encoder does not use."""
    w = weights()
    stored = {**linear(w, b_dec="b_dec"), "k": torch.tensor(K), "threshold": torch.tensor(0.7)}
    dictionary(folder, "AutoEncoderTopK", stored, k=K)
    return w, lambda x: topk((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])


def write_batch_topk(folder: Path) -> tuple[dict[str, Tensor], Latents]:
    w = weights()
    stored = {**linear(w, b_dec="b_dec"), "k": torch.tensor(K), "threshold": torch.tensor(0.7)}
    dictionary(folder, "BatchTopKSAE", stored)

    def encode(x: Tensor) -> Tensor:
        pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
        return pre * (pre > 0.7)

    return w, encode


def write_matryoshka(folder: Path) -> tuple[dict[str, Tensor], Latents]:
    """Its threshold was not estimated yet: every positive latent is active."""
    w = weights()
    groups = {"k": torch.tensor(K), "threshold": torch.tensor(-1.0), "group_sizes": torch.tensor([5, 15])}
    dictionary(folder, None, {**w, **groups})
    return w, lambda x: torch.relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])


def write_jumprelu(folder: Path) -> tuple[dict[str, Tensor], Latents]:
    w = weights(threshold=F)
    dictionary(folder, "JumpReluAutoEncoder", w)

    def encode(x: Tensor) -> Tensor:
        pre = x @ w["W_enc"] + w["b_enc"]
        return torch.relu(pre * (pre > w["threshold"]))

    return w, encode


def write_sparsify(folder: Path, **keys: Any) -> tuple[dict[str, Tensor], Latents]:
    w = weights()
    stored = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"], "W_dec": w["W_dec"], "b_dec": w["b_dec"]}
    save_file({name: value.contiguous() for name, value in stored.items()}, folder / "sae.safetensors")
    config = {"expansion_factor": 32, "normalize_decoder": True, "num_latents": 0, "k": K, "d_in": D, **keys}
    (folder / "cfg.json").write_text(json.dumps(config))
    return w, lambda x: topk((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])


def write_gemma_scope(folder: Path) -> tuple[dict[str, Tensor], Latents]:
    w = weights(threshold=F)
    w["threshold"] = w["threshold"].abs()
    np.savez(folder / "params.npz", **{name: value.numpy() for name, value in w.items()})  # pyright: ignore
    pre: Latents = lambda x: x @ w["W_enc"] + w["b_enc"]  # noqa: E731
    return w, lambda x: pre(x) * (pre(x) > w["threshold"])


def write_gemma_scope_2(folder: Path) -> tuple[dict[str, Tensor], Latents]:
    w = weights(threshold=F)
    w["threshold"] = w["threshold"].abs()
    stored = {name.replace("W_", "w_"): value for name, value in w.items()}
    save_file(stored, folder / "params.safetensors")
    (folder / "config.json").write_text("{}")
    pre: Latents = lambda x: x @ w["W_enc"] + w["b_enc"]  # noqa: E731
    return w, lambda x: pre(x) * (pre(x) > w["threshold"])


WRITERS = {name.removeprefix("write_"): value for name, value in list(globals().items()) if name.startswith("write_")}


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
