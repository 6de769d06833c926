"""SAEs as other libraries save them, written by hand in each library's form, with each library's formula.

`WRITERS`: by form, a function that fills a folder and gives the weights that the library would have, and the latents
that it computes for activations.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

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
