"""This project's SAEs, and Gemma Scope's, as SAEBench takes them. Imported in SAEBench's environment alone.

SAEBench encodes `relu(pre) where pre > threshold` with `pre = x W_enc + b_enc`: no b_dec is subtracted, so an SAE of
eq. 1's form comes folded (`SAE.folded`: separate b_enc, unit-norm decoder rows, raw activations).
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from pathlib import Path

import torch
from sae_bench.custom_saes.base_sae import BaseSAE
from torch import Tensor, nn

from saemd.errors import bad_value
from saemd.quality.saebench import gemma_scope
from saemd.sae import SAE
from saemd.sae.export import load_sae


class SAEBenchSAE(BaseSAE):
    """A JumpReLU SAE over the output of layer `hook_layer`; its `cfg` is SAEBench's CustomSAEConfig."""

    threshold: nn.Parameter  # [F]

    def __init__(self, sae: SAE, model_name: str, hook_layer: int, device: str, dtype: torch.dtype) -> None:
        folded = sae.folded()
        assert folded.b_enc is not None
        super().__init__(sae.d_in, sae.d_sae, model_name, hook_layer, torch.device(device), dtype)
        self.threshold = nn.Parameter(torch.zeros(sae.d_sae))
        with torch.no_grad():
            for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold"):
                getattr(self, name).data = getattr(folded, name).detach().clone()
        # Cast from float32 at the end, by keyword: BaseSAE.to reads device and dtype from keywords alone.
        self.to(device=torch.device(device), dtype=dtype)
        self.requires_grad_(False)
        self.cfg.architecture = "jumprelu"
        self.cfg.device = device
        self.cfg.apply_b_dec_to_input = False
        if not self.check_decoder_norms():
            raise ValueError("decoder rows are not of unit norm: a latent with a decoder row of zero?")

    def encode(self, x: Tensor) -> Tensor:
        """Latents [..., F], a tensor of its own: SCR, TPP and Unlearning write into it."""
        pre = x @ self.W_enc + self.b_enc
        return torch.relu(pre) * (pre > self.threshold)

    def decode(self, feature_acts: Tensor) -> Tensor:
        return feature_acts @ self.W_dec + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


def load(weights: Path, model_name: str, layer: int, d_model: int, device: str, dtype: torch.dtype) -> SAEBenchSAE:
    """The SAE of a run's or an export's `sae_weights.safetensors`, or of Gemma Scope's `params.npz`.

    Raises `UserError` where it cannot be read, or takes activations of another width or layer.
    """
    if weights.suffix == ".npz":
        sae = gemma_scope.read_params(weights)
        if (its_layer := gemma_scope.layer_of(weights)) != layer:
            raise bad_value("gemma_scope", weights, f"this SAE is of layer {its_layer}, the runs are of layer {layer}")
    else:
        sae = load_sae(weights.parent)
    if sae.d_in != d_model:
        raise bad_value("weights", weights, f"takes activations of width {sae.d_in}, but {model_name} has {d_model}")
    return SAEBenchSAE(sae, model_name, layer, device, dtype)
