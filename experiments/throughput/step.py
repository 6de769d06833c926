"""One training step on the CPU: this project through Lightning, as a user runs it, beside its peer.

    python experiments/throughput/step.py [size=small] [steps=20] [repetitions=5] [out=step-small.json]
        [sae_lens=<python of an environment with sae-lens>]

Sizes: small (d_in 576, d_sae 3,072, L0 40) and paper (2,304, 18,432, L0 80); batches of 2,048, float32. The peers are
dictionary_learning 0.1.0's JumpReluTrainer, out of its published wheel (needs `pip install einops`), and SAELens's
SAETrainer (`sae_lens_step.py`, a process of its own, whose pins allow no common environment). All start each
repetition from the same weights, at the target L0, read the same activation cache, and take turns; the first steps of
each are not timed. `bare` is this project's step in a bare loop: what is missing to `saemd` is Lightning's share.
The activations are random, in a cache that is written for the purpose.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import lightning as pl
import torch
from safetensors.torch import save_file

from saemd.activations.disk.cache import ActivationCache
from saemd.activations.streams.stream import BatchStream
from saemd.sae import Progress
from saemd.sae.twins import fast_twin
from saemd.training.module import SAETraining

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import RECIPE, SIZES, Size, processor, random_cache, start
from peers import jump_relu_trainer

B, WARM = 2048, 3


def stream(cache: ActivationCache, steps: int) -> BatchStream:
    return cache.stream(B, steps * B, seed=0)


class Clock(pl.Callback):
    """Seconds from the end of the last warm step to the end of the last step."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == WARM - 1:
            self.began = time.perf_counter()
        self.seconds = time.perf_counter() - getattr(self, "began", time.perf_counter())


def saemd(cache: ActivationCache, size: Size, steps: int) -> float:
    module = SAETraining(start(cache, size), RECIPE, steps=steps, mean_D=cache.mean)
    clock = Clock()
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, max_steps=steps, logger=False, enable_checkpointing=False, callbacks=[clock],
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, train_dataloaders=stream(cache, steps))
    return clock.seconds


def bare(cache: ActivationCache, size: Size, steps: int) -> float:
    module = SAETraining(start(cache, size), RECIPE, steps=steps, mean_D=cache.mean)
    optimizer, twin = module.configure_optimizers()["optimizer"], fast_twin(module.sae, torch.device("cpu"))
    assert twin
    began = 0.0
    for step, x_BD in enumerate(stream(cache, steps)):
        if step == WARM:
            began = time.perf_counter()
        optimizer.zero_grad()
        twin(module.sae, x_BD, Progress(step, steps)).backward(module.sae)
        optimizer.step()
    return time.perf_counter() - began


def dictionary_learning(cache: ActivationCache, size: Size, steps: int) -> float:
    make = jump_relu_trainer(Path.home() / ".cache" / "saemd")
    trainer = make(
        steps=steps, activation_dim=size.d_in, dict_size=size.d_sae, layer=0, lm_name="random", lr=RECIPE.lr,
        warmup_steps=1, sparsity_warmup_steps=None, decay_start=None, target_l0=size.l0, device="cpu",
    )  # fmt: skip
    ours = start(cache, size).state_dict()
    trainer.ae.load_state_dict({name: ours[name] for name in trainer.ae.state_dict()})
    began = 0.0
    for step, x_BD in enumerate(stream(cache, steps)):
        if step == WARM:
            began = time.perf_counter()
        trainer.update(step, x_BD)
    return time.perf_counter() - began


def sae_lens(python: str, versions: dict[str, str], cache: ActivationCache, size: Size, steps: int) -> float:
    weights = {name: value.contiguous() for name, value in start(cache, size).state_dict().items() if name != "scale"}
    save_file(weights, cache.path / "start.safetensors")
    script, root = Path(__file__).with_name("sae_lens_step.py"), Path(__file__).parents[2]
    words = {"cache": cache.path, "start": cache.path / "start.safetensors", "l0": size.l0, "warm": WARM,
             "steps": steps - WARM}  # fmt: skip
    command = [python, str(script), *(f"{key}={value}" for key, value in words.items())]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(root)}
    )
    found = json.loads(done.stdout.splitlines()[-1])
    versions["sae-lens"] = found["version"]
    return found["seconds"]


Side = Callable[[ActivationCache, Size, int], float]
SIDES: dict[str, Side] = {"saemd": saemd, "bare": bare, "dictionary_learning": dictionary_learning}


def main(words: list[str]) -> None:
    given = dict(word.split("=", 1) for word in words)
    name, steps, repetitions = (
        given.get("size", "small"), int(given.get("steps", 20)), int(given.get("repetitions", 5)),
    )  # fmt: skip
    size = SIZES[name]
    torch.set_flush_denormal(True)
    versions = {**{p: importlib.metadata.version(p) for p in ("torch", "lightning")}, "dictionary_learning": "0.1.0"}
    sides = dict(SIDES)
    if "sae_lens" in given:
        sides["sae_lens"] = partial(sae_lens, given["sae_lens"], versions)
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        cache = random_cache(Path(folder) / "cache", size.d_in, (steps + WARM) * B)
        for _ in range(repetitions):
            for side, run in sides.items():
                seconds[side].append(run(cache, size, steps + WARM) / steps)
                print(f"{side}: {seconds[side][-1] * 1e3:.0f} ms a step", flush=True)
    ratios = {
        side: [peer / ours for ours, peer in zip(seconds["saemd"], values, strict=True)]
        for side, values in seconds.items()
        if side not in ("saemd", "bare")
    }
    result = {
        "date": date.today().isoformat(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "versions": versions,
        "size": name, "d_in": size.d_in, "d_sae": size.d_sae, "l0": size.l0, "batch_size": B, "steps": steps,
        "milliseconds": {side: [round(1e3 * s, 1) for s in values] for side, values in seconds.items()},
        "tokens_per_second": {side: round(B / statistics.median(values)) for side, values in seconds.items()},
        "ratio": {
            side: {"median": statistics.median(values), "min": min(values), "max": max(values)}
            for side, values in ratios.items()
        },
        "lightning_share": 1 - statistics.median(seconds["bare"]) / statistics.median(seconds["saemd"]),
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    out = Path(given.get("out", Path(__file__).parent / f"step-{name}.json"))
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
