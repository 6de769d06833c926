"""What the benchmarks of a training step share: sizes, a cache of random activations, a start at the target L0."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from saemd.activations.disk.cache import ActivationCache
from saemd.activations.disk.manifest import (
    MANIFEST,
    SPLITS,
    Manifest,
    Origin,
    Outliers,
    Shard,
    Split,
    SplitName,
    write_json,
)
from saemd.activations.disk.shards import to_bits, write_shard
from saemd.activations.disk.statistics import Sums, norms
from saemd.sae import JumpReLUConfig, JumpReLUSAE
from saemd.training.config import RecipeConfig

RECIPE = RecipeConfig(lr_warmup_fraction=0.0)
ARCHITECTURE = JumpReLUConfig(sparsity_warmup_fraction=0.0)
SHARD = 16_384  # tokens


@dataclass(frozen=True)
class Size:
    d_in: int
    d_sae: int
    l0: int


SIZES = {"small": Size(576, 3072, 40), "paper": Size(2304, 18432, 80)}


def random_cache(folder: Path, d_in: int, tokens: int, heldout: int = 2048) -> ActivationCache:
    """Independent normal activations, written without a language model."""
    folder.mkdir(parents=True)
    generator, sums = torch.Generator().manual_seed(0), Sums.zero(d_in)
    splits: dict[SplitName, Split] = {}
    for name, wanted in zip(SPLITS, (tokens, heldout), strict=True):
        split = splits[name] = Split(tokens=wanted)
        for start in range(0, wanted, SHARD):
            bits_ND = to_bits(torch.randn(min(SHARD, wanted - start), d_in, generator=generator))
            file = f"{name}-{start}.bin"
            split.shards.append(Shard(file, len(bits_ND), write_shard(folder / file, bits_ND)))
            if name == "train":
                sums.add(bits_ND, norms(bits_ND))
    origin = Origin(
        "random", "random", 0, d_in, "random", "random", 256, tokens, heldout, SHARD, outlier_factor=None,
        lm_dtype="float32",
    )  # fmt: skip
    median = float(np.sqrt(d_in))
    manifest = Manifest(
        origin.fingerprint, origin, "float32", Outliers(None, median, None), splits, sums.statistics(),
        {"torch": torch.__version__},
    )  # fmt: skip
    write_json(folder / MANIFEST, manifest)
    return ActivationCache.open(folder)


def start(cache: ActivationCache, size: Size) -> JumpReLUSAE:
    """Random unit rows, tied, with the θ at which L0 is the target."""
    sae = JumpReLUSAE(size.d_in, size.d_sae, ARCHITECTURE, target_l0=size.l0, scale=cache.scale)
    rows = torch.randn(size.d_sae, size.d_in, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        sae.W_dec.copy_(rows / rows.norm(dim=1, keepdim=True))
        sae.W_enc.copy_(sae.W_dec.T)
        pre = sae.pre_activations(cache.sample(256) / cache.scale).flatten()
        sae.threshold.fill_(pre.kthvalue(int(len(pre) * (1 - size.l0 / size.d_sae))).values.item())
    return sae


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
