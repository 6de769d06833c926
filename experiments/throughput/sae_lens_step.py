"""SAELens's own trainer for some steps, in an environment that has sae-lens; `step.py` runs it as one of its sides.

    PYTHONPATH=. <python> experiments/throughput/sae_lens_step.py cache=<folder> start=<weights> l0=40 warm=3 steps=20

`SAETrainer.fit` as SAELens runs it on a data provider: JumpReLU with the quadratic loss around a target L0, float32,
the bandwidth and Adam's β of the paper. It starts from the weights in `start` (safetensors) and reads the batches that
the other sides read. Prints {"seconds": of the steps behind the warm ones, "version": …}.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator

import sae_lens
import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.jumprelu_sae import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer
from safetensors.torch import load_file
from torch import Tensor

from saemd.activations.disk.cache import ActivationCache

BANDWIDTH, LR, B = 0.001, 3e-4, 2048


class Batches:
    """A data provider that notes when the first step behind the warm ones begins."""

    def __init__(self, batches: Iterator[Tensor], warm: int) -> None:
        self.batches, self.warm, self.given, self.began = batches, warm, 0, 0.0

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Tensor:
        if self.given == self.warm:
            self.began = time.perf_counter()
        self.given += 1
        return next(self.batches)


def main(words: list[str]) -> None:
    given = dict(word.split("=", 1) for word in words)
    torch.set_flush_denormal(True)  # as the other sides do
    warm, steps = int(given["warm"]), int(given["steps"])
    weights = load_file(given["start"])
    d_in, d_sae = weights["W_enc"].shape
    config = JumpReLUTrainingSAEConfig(
        d_in=d_in, d_sae=d_sae, dtype="float32", device="cpu", apply_b_dec_to_input=False, normalize_activations="none",
        decoder_init_norm=None, jumprelu_bandwidth=BANDWIDTH, jumprelu_sparsity_loss_mode="quadratic",
        target_l0=float(given["l0"]),
    )  # fmt: skip
    sae = JumpReLUTrainingSAE(config)
    sae.load_state_dict(weights)
    total = (warm + steps) * B
    stream = ActivationCache.open(given["cache"]).stream(B, total, seed=0)
    batches = Batches(iter(stream), warm)
    trainer = SAETrainer(
        SAETrainerConfig(total, B, lr=LR, lr_end=LR, adam_beta1=0.0, adam_beta2=0.999),
        sae,
        batches,  # type: ignore[arg-type]
    )
    trainer.fit()
    print(json.dumps({"seconds": time.perf_counter() - batches.began, "version": sae_lens.__version__}))


if __name__ == "__main__":
    main(sys.argv[1:])
