"""One training step on a GPU: this project through Lightning, beside its peer under autocast and the chip's own rate.

    python experiments/throughput/gpu.py [size=paper] [batch=2048] [steps=50] [repetitions=5] [wheels=<folder>]
                                         [sides=saemd,loop,dictionary_learning] [stack=5] [out=gpu-paper.json]

Each side trains from the same weights at the target L0, in turns; the first ten steps of each are not timed:

    saemd                as a user runs it, through Lightning: a stack of one, its step captured as a CUDA graph,
                         batches read from a cache on disk and sent ahead, clipping, optimizer, unit rows, a logged
                         point every ten steps
    resident             the same with the cache in the GPU's memory
    stack                so many SAEs as one, each with a data order of its own, the cache in the GPU's memory; the time
                         is the stack's divided by their number
    eager                `saemd` without the graph: what capturing gives
    loop                 one SAE's step in a bare loop, without graph and Lightning
    dictionary_learning  0.1.0's JumpReluTrainer as its own loop calls it on a GPU, under bfloat16 autocast, given the
                         same batches, sent ahead too

`profile=<side>` measures no times: it writes that side's kernels, as torch's profiler sums them up, beside `out`.
Sizes are `common.SIZES`, or d_in=… d_sae=… l0=….

Needs torch, lightning, safetensors and triton; the peer needs its wheel: `wheels=` names a folder filled by

    pip download --no-deps --dest <folder> dictionary-learning==0.1.0 einops tqdm

and without it the wheel is fetched (einops and tqdm must be installed then). `device=cpu` rehearses the same code on a
machine without a GPU, in small: its times say nothing. d_in=64 d_sae=256 l0=8 batch=128 steps=5 will do.
"""

from __future__ import annotations

import importlib.metadata
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from typing import Any

import lightning as pl
import torch

from saemd.activations.datamodule import ActivationDataModule
from saemd.activations.disk.cache import ActivationCache
from saemd.activations.joined import JoinedHeldout, JoinedStream
from saemd.activations.memory.activations import MemoryActivations, read_cache
from saemd.activations.source import Source
from saemd.sae import Progress, twins
from saemd.sae.jumprelu_fast.gpu import HalfLoss
from saemd.training.module import SAETraining
from saemd.training.optimizer import SAEAdam
from saemd.training.stack import captured
from saemd.training.stack.module import StackTraining
from saemd.training.stack.optimizer import StackAdam

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import RECIPE, SIZES, Size, processor, random_cache, start
from parts import matrix_rate, parts, wait
from peers import jump_relu_trainer, jump_relu_trainer_from

WARM = 10  # steps: the passes are compiled in the first
CACHED = 32  # batches in the cache, read again and again
SIDES = ("saemd", "resident", "stack", "eager", "loop", "dictionary_learning")
NEVER = 10**9  # steps


class Bench:
    """One size on one device; each side returns the seconds of a step and its last loss."""

    def __init__(
        self, cache: ActivationCache, size: Size, batch: int, steps: int, stacked: int, device: torch.device
    ) -> None:
        self.cache, self.size, self.batch, self.steps, self.device = cache, size, batch, steps, device
        self.stacked = stacked
        self.peer: Any = None

    def data(self) -> ActivationDataModule:
        stream = self.cache.stream(self.batch, (WARM + self.steps) * self.batch, seed=0)
        return ActivationDataModule(stream, self.cache.heldout(self.batch))

    def module(self) -> SAETraining:
        steps = WARM + self.steps
        sae = start(self.cache, self.size)
        module = SAETraining(sae, RECIPE, steps=steps, mean_D=self.cache.mean)
        if self.device.type == "cpu":  # what the recipe chooses on a GPU
            twins._twin = lambda architecture, device: HalfLoss()
            SAEAdam._by_kernels = SAEAdam._by_passes  # type: ignore[method-assign]
            StackTraining._on_gpu = lambda self: True  # type: ignore[method-assign]
            StackAdam._one_by_one = StackAdam.step_by_passes  # type: ignore[method-assign]
            captured.EAGER_STEPS = NEVER
        return module

    def saemd(self) -> tuple[float, float]:
        return self._stacked(1, self.cache)

    def eager(self) -> tuple[float, float]:
        usual, captured.EAGER_STEPS = captured.EAGER_STEPS, NEVER
        try:
            return self._stacked(1, self.cache)
        finally:
            captured.EAGER_STEPS = usual

    def resident(self) -> tuple[float, float]:
        return self._stacked(1, self._resident())

    def stack(self) -> tuple[float, float]:
        return self._stacked(self.stacked, self._resident())

    def _resident(self) -> MemoryActivations:
        return MemoryActivations(read_cache(self.cache, self.device), self.cache.window_tokens)

    def _stacked(self, n: int, source: Source) -> tuple[float, float]:
        """Seconds of a step for each of `n` SAEs in a stack, and the last loss."""
        module = StackTraining([self.module() for _ in range(n)], [source.fingerprint] * n, [None] * n, {})
        clock = Clock(self.device)
        stream = JoinedStream([source] * n, self.batch, (WARM + self.steps) * self.batch, range(n))
        data = ActivationDataModule(stream, JoinedHeldout([source] * n, self.batch))
        self._trainer(clock).fit(module, datamodule=data)
        return clock.seconds / self.steps / n, module.last_figures["train/loss"]

    def _trainer(self, clock: Clock) -> pl.Trainer:
        return pl.Trainer(
            accelerator="gpu" if self.device.type == "cuda" else "cpu", devices=1, max_epochs=1,
            max_steps=WARM + self.steps, logger=False, enable_checkpointing=False, callbacks=[clock],
            enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        )  # fmt: skip

    def loop(self) -> tuple[float, float]:
        module = self.module().to(self.device)
        optimizer, twin = module.configure_optimizers()["optimizer"], twins.fast_twin(module.sae, self.device)
        assert twin

        def step(i: int, x_BD: torch.Tensor) -> torch.Tensor:
            optimizer.zero_grad()
            loss = twin(module.sae, x_BD, Progress(i, WARM + self.steps))
            loss.backward(module.sae)
            optimizer.step()
            return loss.total

        return self._each_batch(step)

    def dictionary_learning(self) -> tuple[float, float]:
        size, steps = self.size, WARM + self.steps
        trainer = self.peer(
            steps=steps, activation_dim=size.d_in, dict_size=size.d_sae, layer=0, lm_name="random", lr=RECIPE.lr,
            warmup_steps=1, sparsity_warmup_steps=None, decay_start=None, target_l0=size.l0, device=str(self.device),
        )  # fmt: skip
        ours = start(self.cache, size).state_dict()
        trainer.ae.load_state_dict({name: ours[name] for name in trainer.ae.state_dict()})
        autocast = torch.autocast(self.device.type, torch.bfloat16) if self.device.type == "cuda" else nullcontext()

        def step(i: int, x_BD: torch.Tensor) -> float:
            with autocast:
                return trainer.update(i, x_BD)

        return self._each_batch(step)

    def _each_batch(self, step: Callable[[int, torch.Tensor], Any]) -> tuple[float, float]:
        began, loss, stream = 0.0, torch.nan, self.data().stream
        stream.send_to(self.device)
        for i, x_BD in enumerate(stream):
            if i == WARM:
                wait(self.device)
                began = time.perf_counter()
            loss = step(i, x_BD)
        wait(self.device)
        return (time.perf_counter() - began) / self.steps, float(loss)


class Clock(pl.Callback):
    """Seconds from the end of the last warm step to the end of the last step, the GPU's work included."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.began, self.seconds = device, 0.0, 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == WARM - 1:
            wait(self.device)
            self.began = time.perf_counter()
        elif batch_idx == trainer.max_steps - 1:
            wait(self.device)
            self.seconds = time.perf_counter() - self.began


def measure(bench: Bench, sides: list[str], repetitions: int) -> dict[str, Any]:
    """Milliseconds of every repetition, last losses, and peak memory, by side."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    losses: dict[str, float] = {}
    peak: dict[str, float] = {}
    for _ in range(repetitions):
        for side in sides:
            if bench.device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            found, losses[side] = getattr(bench, side)()
            seconds[side].append(found)
            if bench.device.type == "cuda":
                peak[side] = torch.cuda.max_memory_allocated() / 1e9
            print(f"{side}: {found * 1e3:.2f} ms a step, loss {losses[side]:.4f}", flush=True)
    return {
        "milliseconds": {side: [round(1e3 * s, 3) for s in values] for side, values in seconds.items()},
        "tokens_per_second": {side: round(bench.batch / statistics.median(values)) for side, values in seconds.items()},
        "last_loss": losses,
        "peak_gigabytes": peak or "not measured",
    }


def compare(result: dict[str, Any], bench: Bench) -> dict[str, Any]:
    """The figures that are asked for: the ratio to the peer, and the share of the chip's matrix rate."""
    took, found = result["milliseconds"], {}
    for side, name in (("saemd", "ratio"), ("resident", "resident_ratio"), ("stack", "stack_ratio")):
        if {side, "dictionary_learning"} <= took.keys():
            ratios = [peer / ours for ours, peer in zip(took[side], took["dictionary_learning"], strict=True)]
            found[name] = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    flops = 10 * bench.size.d_in * bench.size.d_sae * bench.batch
    rates = {side: flops / (statistics.median(values) * 1e-3) / 1e12 for side, values in took.items()}
    found["teraflops_per_second"] = rates
    found["of_matrix_rate"] = {side: rate / result["matrix_teraflops_per_second"] for side, rate in rates.items()}
    return found


def main(words: list[str]) -> None:
    given = dict(word.split("=", 1) for word in words)
    known = {
        "size", "d_in", "d_sae", "l0", "batch", "steps", "repetitions", "sides", "stack", "wheels", "device",
        "profile", "out",
    }  # fmt: skip
    if given.keys() - known:
        sys.exit(f"error: unknown {', '.join(sorted(given.keys() - known))}; known are {', '.join(sorted(known))}")
    name, device = given.get("size", "paper"), torch.device(given.get("device", "cuda"))
    size = SIZES[name]
    if "d_sae" in given:
        name, size = "own", Size(int(given["d_in"]), int(given["d_sae"]), int(given["l0"]))
    sides = given.get("sides", ",".join(SIDES)).split(",")
    batch, steps, stacked = (int(given.get(*key)) for key in (("batch", 2048), ("steps", 50), ("stack", 5)))
    with tempfile.TemporaryDirectory() as folder:
        cache = random_cache(Path(folder) / "cache", size.d_in, CACHED * batch)
        bench = Bench(cache, size, batch, steps, stacked, device)
        if "dictionary_learning" in sides:
            wheels, here = given.get("wheels"), Path.home() / ".cache" / "saemd"
            bench.peer = jump_relu_trainer_from(Path(wheels)) if wheels else jump_relu_trainer(here)
        result: dict[str, Any] = {
            "date": date.today().isoformat(),
            "device": torch.cuda.get_device_name() if device.type == "cuda" else f"{processor()} (a rehearsal)",
            "versions": {
                **{p: importlib.metadata.version(p) for p in ("torch", "lightning")},
                "cuda": torch.version.cuda, "dictionary_learning": "0.1.0",
            },
            "size": name, "d_in": size.d_in, "d_sae": size.d_sae, "l0": size.l0, "batch_size": batch, "steps": steps,
            "stack": stacked,
            "matrix_teraflops_per_second": matrix_rate(device),
        }  # fmt: skip
        if side := given.get("profile"):
            with torch.profiler.profile() as kernels:
                getattr(bench, side)()
            by = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
            table = kernels.key_averages().table(sort_by=by, row_limit=40, max_name_column_width=80)
            Path(given["out"]).with_suffix(".txt").write_text(table)
            return
        result |= measure(bench, sides, int(given.get("repetitions", 5)))
        result |= compare(result, bench)
        x_BD = bench.cache.sample(batch).to(device) / bench.cache.scale
        result["parts"] = parts(start(bench.cache, size).to(device), x_BD)
    print(json.dumps(result, indent=1))
    Path(given.get("out", Path(__file__).parent / f"gpu-{name}.json")).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
