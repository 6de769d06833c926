"""SAEs of any architecture, this project's and Gemma Scope's, in the form that SAEBench wants."""

from pathlib import Path

import torch
from sae_bench.custom_saes.base_sae import BaseSAE
from torch import Tensor

from saemd.errors import bad_value
from saemd.quality.saebench import gemma_scope
from saemd.sae import SAE, load_sae


class SAEBenchSAE(BaseSAE):
    """An SAE over the output of layer `hook_layer`; its `cfg` is SAEBench's CustomSAEConfig.

    Encoding and decoding are the folded SAE's own: raw activations, decoder rows of unit norm. SAEBench reads weights
    too (`W_enc`, `W_dec`, biases), so each parameter stands here under its name as well.
    """

    def __init__(self, sae: SAE, model_name: str, hook_layer: int, device: str, dtype: torch.dtype) -> None:
        super().__init__(sae.d_in, sae.d_sae, model_name, hook_layer, torch.device(device), dtype)
        self.folded = sae.folded()
        for name, parameter in self.folded.named_parameters():
            self.register_parameter(name, parameter)
        # Cast from float32 at the end, by keyword: BaseSAE.to reads device and dtype from keywords alone.
        self.to(device=torch.device(device), dtype=dtype)
        self.requires_grad_(False)
        self.cfg.architecture = self.folded.saelens
        self.cfg.device = device
        self.cfg.apply_b_dec_to_input = False
        if not self.check_decoder_norms():
            raise ValueError("decoder rows are not of unit norm: a latent with a decoder row of zero?")

    def encode(self, x: Tensor) -> Tensor:
        """Latents [..., F] in a tensor of their own, for SCR, TPP and Unlearning write into it.

        SAEBench's latents are never negative; a JumpReLU's with θ < 0 may be.
        """
        return torch.relu(self.folded.encode(x))

    def decode(self, feature_acts: Tensor) -> Tensor:
        return self.folded.decode(feature_acts)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


def load(weights: Path, model_name: str, layer: int, d_model: int, device: str, dtype: torch.dtype) -> SAEBenchSAE:
    """The SAE of a run's or an export's `sae_weights.safetensors`, or of Gemma Scope's `params.npz`.

    Raises `UserError` where it cannot be read, or is for activations of another width or layer.
    """
    if weights.suffix == ".npz":
        sae = gemma_scope.read_params(weights)
        if (sae_layer := gemma_scope.layer_of(weights)) != layer:
            raise bad_value("gemma_scope", weights, f"this SAE is of layer {sae_layer}, the runs are of layer {layer}")
    else:
        sae = load_sae(weights.parent)
    if sae.d_in != d_model:
        raise bad_value("weights", weights, f"takes activations of width {sae.d_in}, but {model_name} has {d_model}")
    return SAEBenchSAE(sae, model_name, layer, device, dtype)
