"""dictionary_learning 0.1.0's own JumpReluTrainer on an activation cache of ours: same batches, same measurement.

    python experiments/embedded-sweep/peer.py cache=<folder of an activation cache> [l0=40] [seed=24] [out=peer.json]

Every key is a field of `Arguments`. The trainer comes out of its published wheel (`experiments/peers.py`). The seed
sets the global generator, since the trainer stores its `seed` and never uses it, and the order of the activations is
that of a saemd run with this `data_seed`.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING, OmegaConf
from torch.nn.functional import cosine_similarity

from saemd.activations.config import ActivationsConfig
from saemd.activations.disk.cache import ActivationCache
from saemd.cli import entry
from saemd.progress import bar
from saemd.sae import JumpReLUConfig, JumpReLUSAE
from saemd.sae.measures import Pooled
from saemd.sae.warmup import warmup_length
from saemd.training.config import RecipeConfig, check_recipe
from saemd.training.schedules import schedule

sys.path.insert(0, str(Path(__file__).parent.parent))
from peers import NAME, VERSION, jump_relu_trainer


@dataclass
class Arguments:
    cache: str = MISSING  # an activation cache's folder (`python -m saemd.cache` prints it)
    tokens: int = 1_048_576
    batch_size: int = 2048
    d_sae: int = 3072  # SmolLM2-135M: 2m
    l0: int = 40
    seed: int = 24
    lr: float = RecipeConfig.lr
    lr_warmup: float = RecipeConfig.lr_warmup_fraction  # fractions of the run, as in the short recipe
    sparsity_warmup: float = JumpReLUConfig.sparsity_warmup_fraction
    decay: float = RecipeConfig.lr_decay_fraction
    window_tokens: int = ActivationsConfig.window_tokens
    threads: int | None = None  # CPU threads of torch; null: all cores
    cache_root: str = "${oc.env:SAEMD_CACHE,${oc.env:HOME}/.cache/saemd}"  # where the wheel is kept
    out: str = "peer.json"


def train(arguments: Arguments) -> dict[str, Any]:
    """Train the peer's SAE and measure it on the held-out activations, with the keys of a run's `metrics.json`."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)  # as a run of ours does
    cache = ActivationCache.open(arguments.cache, window_tokens=arguments.window_tokens)
    stream = cache.stream(arguments.batch_size, arguments.tokens, arguments.seed)
    steps = len(stream)
    recipe = RecipeConfig(
        lr=arguments.lr,
        lr_warmup_fraction=arguments.lr_warmup,
        lr_decay_fraction=arguments.decay,
    )
    check_recipe(recipe)
    plan, penalty = schedule(recipe, steps), JumpReLUConfig(sparsity_warmup_fraction=arguments.sparsity_warmup)
    penalty.check(steps, plan.lr_decay_start)
    sparsity_warmup = warmup_length(penalty, "sparsity", steps)
    make = jump_relu_trainer(Path(arguments.cache_root))
    torch.manual_seed(arguments.seed)
    trainer = make(
        steps=steps,
        activation_dim=cache.d_in,
        dict_size=arguments.d_sae,
        layer=cache.manifest.origin.layer,
        lm_name=cache.manifest.origin.lm,
        lr=recipe.lr,
        bandwidth=penalty.bandwidth,
        sparsity_penalty=penalty.sparsity_coefficient,
        warmup_steps=plan.lr_warmup,
        sparsity_warmup_steps=sparsity_warmup,
        decay_start=plan.lr_decay_start if plan.lr_decay_start < steps else None,
        target_l0=arguments.l0,
        device="cpu",
    )
    start = {name: value.detach().clone() for name, value in trainer.ae.state_dict().items()}
    began = time.perf_counter()
    with bar(f"{NAME} l0={arguments.l0} seed={arguments.seed}", total=steps * arguments.batch_size) as progress:
        for step, x_BD in enumerate(stream):
            loss = trainer.update(step, x_BD)
            progress.advance(len(x_BD))
            progress.note(f"loss {loss:.3f}")
    seconds = time.perf_counter() - began

    sae = JumpReLUSAE(cache.d_in, arguments.d_sae)  # of normalised activations
    sae.load_state_dict({**trainer.ae.state_dict(), "scale": torch.tensor(1.0)})
    negative = (sae.threshold < 0).float().mean().item()
    with torch.no_grad():
        sae.threshold.clamp_(min=0)  # their encode() is ReLU after JumpReLU: negative thresholds act as 0
    pooled = Pooled(cache.d_in, arguments.d_sae)
    for x_BD in cache.heldout(arguments.batch_size):
        pooled.update(sae, x_BD)
    held_out = pooled.result()
    with torch.no_grad():
        drift_dec = cosine_similarity(sae.W_dec, start["W_dec"], dim=1).mean().item()
        drift_enc = cosine_similarity(sae.W_enc, start["W_enc"], dim=0).mean().item()
    return {
        "tokens": steps * arguments.batch_size,
        "steps": steps,
        "target_l0": arguments.l0,
        "l0": held_out.l0,
        "fvu": held_out.fvu,
        "explained_variance": held_out.explained_variance,
        "loss": held_out.loss,
        "dead_fraction": held_out.dead_fraction,
        "drift_dec": drift_dec,
        "drift_enc": drift_enc,
        "tokens_per_second": steps * arguments.batch_size / seconds,
        "seconds": seconds,
        "held_out_tokens": held_out.tokens,
        "negative_thresholds": negative,
        "about": {
            "trainer": f"{NAME} {VERSION} JumpReluTrainer",
            "arguments": {k: v for k, v in asdict(arguments).items() if k not in ("cache", "cache_root", "out")},
            "warmup_steps": plan.lr_warmup,
            "sparsity_warmup_steps": sparsity_warmup,
            "decay_start": plan.lr_decay_start,
            "cache": cache.summary(),
            "versions": {name: importlib.metadata.version(name) for name in ("torch", "einops")},
        },
    }


def main(words: list[str]) -> int:
    if not words or {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    given = OmegaConf.merge(OmegaConf.structured(Arguments), OmegaConf.from_dotlist(words))
    arguments = OmegaConf.to_object(given)
    assert isinstance(arguments, Arguments)
    out = Path(arguments.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    metrics = train(arguments)
    aside = out.with_name(f".{out.name}.partial")
    aside.write_text(json.dumps(metrics, indent=2) + "\n")
    os.replace(aside, out)
    figures = ("l0", "fvu", "explained_variance", "dead_fraction", "tokens_per_second")
    print("  ".join(f"{name} {metrics[name]:.4g}" for name in figures), f" → {out}")
    return 0


if __name__ == "__main__":
    entry(main)
