"""Training steps on rows of common batches, for tests that compare one device with several."""

from __future__ import annotations

import os
import signal
from typing import Any

import lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor

from saemd.config import Config
from saemd.sae import SAE, Progress
from saemd.sae.batch import WHOLE, Batch, SharedBatch
from saemd.sae.jumprelu_fast.cpu import FastLoss
from saemd.sae.jumprelu_fast.gpu import HalfLoss
from saemd.sae.registry import ARCHITECTURES
from saemd.sae.stack import stack
from saemd.training import run
from saemd.training.config import RecipeConfig
from saemd.training.optimizer import SAEAdam
from saemd.training.schedules import schedule
from saemd.training.stack.train import train_together

B, D, F, L0, STEPS = 64, 16, 40, 6.0, 50
DEAD = {"dead_after_tokens": 4 * B}
# Every architecture, and each option whose loss is no mean over tokens.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "jumprelu": ("jumprelu", {"bandwidth": 0.1}),
    "jumprelu_post": ("jumprelu", {"bandwidth": 0.1, "step_on": "post", "positive_threshold": False}),
    "jumprelu_all": ("jumprelu", {"bandwidth": 0.1, "step_gradient": "all", "bias": "shared"}),
    "jumprelu_tanh": ("jumprelu", {"sparsity": "tanh", "seek_l0": 0.02, "sparsity_coefficient": 0.1}),
    "jumprelu_dead": ("jumprelu", {"bandwidth": 0.1, "pre_activation_coefficient": 0.1, **DEAD}),
    "topk": ("topk", DEAD),
    "batch_topk": ("batch_topk", DEAD),
    "matryoshka_batch_topk": ("matryoshka_batch_topk", DEAD),
    "gated": ("gated", {}),
}
TWINS = {"cpu": FastLoss, "gpu": lambda: HalfLoss(torch.float32)}


def batches(dtype: torch.dtype) -> Tensor:
    """[STEPS, B, D] of sparse sums of 24 directions, of mean squared norm 1. Some latents are never active on them."""
    draw = torch.Generator().manual_seed(1)
    directions = torch.randn(24, D, generator=draw, dtype=torch.float64)
    strength = torch.rand(STEPS, B, 24, generator=draw, dtype=torch.float64)
    x = torch.where(strength < 0.15, strength + 0.1, 0.0) @ directions + 0.01 * strength[..., :D]
    return (x / x.pow(2).sum(-1).mean().sqrt()).to(dtype)


def new_sae(case: str, dtype: torch.dtype, seed: int = 0) -> SAE:
    name, options = CASES[case]
    architecture = ARCHITECTURES[name]
    sae = architecture(D, F, architecture.Config(**options), target_l0=L0)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        sae.W_dec.copy_(torch.randn(F, D, generator=draw))
        sae.normalise_decoder()
        sae.W_enc.copy_(sae.W_dec.T)
        if sae.b_enc is not None:
            sae.b_enc[:5] = -5  # dead from the start
    return sae.to(dtype)


def trained(case: str, batch: Batch, rank: int, steps: int) -> dict[str, Tensor]:
    """The SAE behind `steps` steps of the plain loss on this rank's rows of every batch: parameters and buffers."""
    sae, recipe = new_sae(case, torch.float64), RecipeConfig(lr=3e-3, fast=False)
    sae.batch, size = batch, B // batch.devices
    optimizer = SAEAdam(sae, recipe, schedule(recipe, STEPS))
    for step, x_BD in enumerate(batches(torch.float64)[:steps]):
        for parameter in sae.parameters():
            parameter.grad = None
        sae.objective(x_BD[rank * size : (rank + 1) * size], Progress(step, STEPS)).backward(sae)
        batch.average_gradients(sae.parameters())
        optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in sae.state_dict().items()}


def gradients(case: str, twin: str, batch: Batch, rank: int, stacked: bool = False) -> dict[str, Tensor]:
    """One step of a fast twin: L0, what fired, and the gradients."""
    sae = new_sae(case, torch.float32)
    if stacked:
        sae = stack([sae, new_sae(case, torch.float32, seed=1)])
    sae.batch, size = batch, B // batch.devices
    x_BD = batches(torch.float32)[0, rank * size : (rank + 1) * size]
    loss = TWINS[twin]()(sae, x_BD.expand(2, -1, -1) if stacked else x_BD, Progress(30, STEPS))
    loss.backward(sae)
    batch.average_gradients(sae.parameters())
    grads = {name: parameter.grad.clone() for name, parameter in sae.named_parameters() if parameter.grad is not None}
    return {**grads, "l0": loss.l0, "fired": loss.fired, "total": batch.mean(loss.total)}


def everything(batch: Batch, rank: int, steps: int) -> dict[str, dict[str, Tensor]]:
    results = {case: trained(case, batch, rank, steps) for case in CASES}
    for case in ("jumprelu", "jumprelu_post", "jumprelu_all"):
        results |= {f"{case} twin {twin}": gradients(case, twin, batch, rank) for twin in TWINS}
    return {**results, "jumprelu stack": gradients("jumprelu", "gpu", batch, rank, stacked=True)}


def of_several(steps: int) -> dict[str, dict[str, Tensor]]:
    """`everything` of a batch that processes share; called in each of them."""
    dist.init_process_group("gloo")
    results = everything(SharedBatch(), dist.get_rank(), steps)
    for result in results.values():
        for value in result.values():
            first = value.clone()
            dist.broadcast(first, src=0)
            assert torch.equal(first, value), "the processes differ"
    dist.destroy_process_group()
    return results


def of_one(steps: int) -> dict[str, dict[str, Tensor]]:
    return everything(WHOLE, 0, steps)


def through_a_group_of_one(steps: int) -> dict[str, dict[str, Tensor]]:
    """`everything` through all collectives, in a process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[reportPrivateImportUsage]
    try:
        return everything(SharedBatch(), 0, steps)
    finally:
        dist.destroy_process_group()


class Stop(pl.Callback):
    """SIGTERM for this process in a step, as from a scheduler."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def train_runs(job: tuple[list[Config], int | None]) -> None:
    """Train each configuration, in every process of a job; the first process is stopped in a step, if one is given.

    Where several configurations can be one stack, they are, as `together` asks.
    """
    configs, stop = job
    if isinstance(configs[0].together, int) and configs[0].together > 1:
        train_together(configs)
        return
    for config in configs:
        run.train(config, [] if stop is None else [Stop(stop)])
