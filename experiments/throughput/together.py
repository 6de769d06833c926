"""Several SAEs trained together from one stream, beside the same ones trained one by one, on the CPU.

    python experiments/throughput/together.py [steps=20] [repetitions=3] [out=together.json]

The small size of step.py (d_in 576, d_sae 3,072, batches of 2,048, float32), k = 1, 2 and 5 SAEs with the target L0s
20, 40, 80, 160, 320, each from the θ at which it has its target. Both ways go through Lightning as a user's runs do,
read the same cache and take turns; the first steps of each run are not timed, and neither is building the SAEs. `bare`
is the five in loops without Lightning, one after another; `stream` the making of the batches alone, on one thread.
The activations are random, in a cache that is written for the purpose.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import lightning as pl
import torch
from step import RECIPE, SIZES, WARM, B, Clock, processor, random_cache, start, stream

from saemd.activations.cache import ActivationCache
from saemd.activations.config import ActivationsConfig
from saemd.activations.stream import ActivationStream
from saemd.sae import make_loss
from saemd.training.module import SAETraining
from saemd.training.together import Together

L0S, GROUPS = (20, 40, 80, 160, 320), (1, 2, 5)
SMALL = SIZES["small"]


def members(cache: ActivationCache, l0s: tuple[int, ...], steps: int) -> list[SAETraining]:
    """SAEs at their target L0s, with one loss's buffers for all, as a group of a sweep has them."""
    loss = make_loss(RECIPE.fast)
    return [
        SAETraining(
            start(cache, type(SMALL)(SMALL.d_in, SMALL.d_sae, l0)), RECIPE, target_l0=l0, steps=steps,
            mean_D=cache.mean, loss=loss,
        )
        for l0 in l0s
    ]  # fmt: skip


def together(cache: ActivationCache, l0s: tuple[int, ...], steps: int) -> float:
    clock = Clock()
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, max_steps=steps, logger=False, enable_checkpointing=False, callbacks=[clock],
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    module = Together(members(cache, l0s, steps))
    trainer.fit(module, train_dataloaders=stream(cache, steps))
    assert not module.failed
    return clock.seconds


def one_by_one(cache: ActivationCache, l0s: tuple[int, ...], steps: int) -> float:
    return sum(together(cache, (l0,), steps) for l0 in l0s)


def bare(cache: ActivationCache, l0s: tuple[int, ...], steps: int) -> float:
    seconds = 0.0
    for l0 in l0s:
        (module,) = members(cache, (l0,), steps)
        optimizer = module.configure_optimizers()["optimizer"]
        began = 0.0
        for step, x_BD in enumerate(stream(cache, steps)):
            if step == WARM:
                began = time.perf_counter()
            module._loss_of(module.sae, x_BD, module.penalty(step)).backward(module.sae)
            optimizer.step()
            optimizer.zero_grad()
        seconds += time.perf_counter() - began
    return seconds


def read(cache: ActivationCache, steps: int) -> float:
    """Seconds to make the batches, where nothing else runs; the first ones, which open the shards, are not timed."""
    began = 0.0
    for step, _ in enumerate(
        ActivationStream(cache, B, steps * B, 0, window_tokens=ActivationsConfig.window_tokens, prefetch_batches=0)
    ):
        if step == WARM - 1:
            began = time.perf_counter()
    return time.perf_counter() - began


def main(words: list[str]) -> None:
    given = dict(word.split("=", 1) for word in words)
    steps, repetitions = int(given.get("steps", 20)), int(given.get("repetitions", 3))
    torch.set_flush_denormal(True)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        cache = random_cache(Path(folder) / "cache", SMALL.d_in, (steps + WARM) * B)
        sides: dict[str, Callable[[int], float]] = {"stream": partial(read, cache)}
        for k in GROUPS:
            sides |= {f"{way.__name__} {k}": partial(way, cache, L0S[:k]) for way in (together, one_by_one)}
        sides["bare 5"] = partial(bare, cache, L0S)
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(repetitions):
            for side, run in sides.items():
                seconds[side].append(run(steps + WARM) / steps)
                print(f"{side}: {seconds[side][-1] * 1e3:.1f} ms a batch", flush=True)
    groups = {}
    for k in GROUPS:
        ratios = [a / b for a, b in zip(seconds[f"one_by_one {k}"], seconds[f"together {k}"], strict=True)]
        rates = {way: round(k * B / statistics.median(seconds[f"{way} {k}"])) for way in ("together", "one_by_one")}
        groups[str(k)] = {
            "l0": L0S[:k],
            "tokens_times_saes_per_second": rates,
            "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        }
    alone = statistics.median(seconds["one_by_one 5"])
    result = {
        "date": date.today().isoformat(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "versions": {p: importlib.metadata.version(p) for p in ("torch", "lightning")},
        "d_in": SMALL.d_in, "d_sae": SMALL.d_sae, "batch_size": B, "steps": steps,
        "groups": groups,
        "share_of_five_one_by_one": {
            "stream": 5 * statistics.median(seconds["stream"]) / alone,
            "lightning_and_logged_figures": 1 - statistics.median(seconds["bare 5"]) / alone,
        },
        "milliseconds_a_batch": {side: [round(1e3 * s, 1) for s in values] for side, values in seconds.items()},
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    out = Path(given.get("out", Path(__file__).parent / "together.json"))
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
