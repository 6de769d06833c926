"""Memory that training at the paper's size takes on a CPU: the peak of a whole process, from different starts.

    python experiments/throughput/step_memory.py [steps=6] [size=paper] [out=step-memory.json]

Through Lightning, with validation, as a user's run: d_in 2,304, d_sae 18,432, batches of 2,048, random activations.
`target`: at the target L0 from the first step; `uniform`: the real start, tied, θ = 0.001, about half of all latents
active; `mirror`: [U, −U] of a random U with the dual encoder, which costs float64 copies while it is made. Each in a
process of its own; the peak is the kernel's (ru_maxrss), with torch, Lightning and numba in it.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import lightning as pl
import torch

from saemd.activations.datamodule import ActivationDataModule
from saemd.activations.disk.cache import ActivationCache
from saemd.sae import INITS, SAE, JumpReLUConfig, ModelShape, Sources, build, load_sae
from saemd.training.config import RecipeConfig
from saemd.training.module import SAETraining

sys.path.insert(0, str(Path(__file__).parent))
import common

B = 2048
STARTS = ("target", "uniform", "mirror")


def sae_of(kind: str, cache: ActivationCache, size: common.Size) -> SAE:
    if kind == "target":
        return common.start(cache, size)
    U = torch.randn(size.d_in, size.d_sae // 2, generator=torch.Generator().manual_seed(2))
    sources = Sources(
        d_in=size.d_in,
        d_sae=size.d_sae,
        model=ModelShape(size.d_in, U.shape[1], False, n_layers=1, layer=0, tokens=cache.n_train),
        sample=lambda: cache.sample(16_384) / cache.scale,
        data_points=lambda n, seed: (cache.sample(n, seed) - cache.mean) / cache.scale,
        mlp_decoder=lambda layer: (U, None),
        attention_output=lambda layer: U,
        token_embeddings=lambda: U.T,
        saved_sae=load_sae,
        generator=torch.Generator().manual_seed(0),
        shared_generator=torch.Generator().manual_seed(0),
    )
    config = INITS[kind].Config(kind, kind, {"uniform": "tied", "mirror": "dual"}[kind])
    return build(config, JumpReLUConfig(), sources, target_l0=size.l0, scale=cache.scale)


def one(kind: str, folder: Path, size: common.Size, steps: int) -> dict[str, Any]:
    """Train in this process and tell its peak."""
    cache = ActivationCache.open(folder)
    data = ActivationDataModule(cache.stream(B, steps * B, seed=0), cache.heldout(B))
    module = SAETraining(sae_of(kind, cache, size), RecipeConfig(), steps=steps, mean_D=cache.mean)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, max_steps=steps, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    trainer.fit(module, datamodule=data)
    assert module.held_out is not None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gigabytes = {"peak_gb": peak * 1024 / 1e9, "before_training_gb": before * 1024 / 1e9}
    return {"start": kind, **gigabytes, "l0_of_last_step": module.last_figures["train/l0"], "steps": steps}


def main(words: list[str]) -> None:
    given = dict(word.split("=", 1) for word in words)
    size, steps = common.SIZES[given.get("size", "paper")], int(given.get("steps", 6))
    if "one" in given:
        print(json.dumps(one(given["one"], Path(given["cache"]), size, steps)))
        return
    result: dict[str, Any] = {"date": date.today().isoformat(), "processor": common.processor(), "runs": []}
    with tempfile.TemporaryDirectory() as folder:
        cache = common.random_cache(Path(folder) / "cache", size.d_in, 16 * B)
        for kind in STARTS:
            command = [sys.executable, __file__, f"one={kind}", f"cache={cache.path}", *words]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            result["runs"].append(json.loads(done.stdout.splitlines()[-1]))
            print(result["runs"][-1], flush=True)
    out = Path(given.get("out", Path(__file__).parent / "step-memory.json"))
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
