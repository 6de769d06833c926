"""The processes that share each batch of a run, one for each device, and what only the first of them does.

Each process has a Lightning Trainer on its one device; `SharedBatch` joins them. Lightning's DDP strategy is not used:
it averages gradients in autograd, which fast twins do without. It also makes the host wait for the GPU in every step,
and calls a collective in its handler of SIGTERM.
"""

import atexit
import os
import signal
from datetime import timedelta
from typing import Any

import lightning as pl
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only

from saemd.config import Config
from saemd.errors import UserError, bad_value
from saemd.ranks import Ranks, launched, use_own_gpu
from saemd.sae.batch import WHOLE, Batch, SharedBatch
from saemd.threads import use_threads

TIMEOUT = timedelta(hours=1)  # of a process that waits for the others, as while the first one measures a snapshot


def ranks_of(config: Config) -> Ranks:
    """This process among those of its job: alone with devices=1, also where a scheduler numbers its tasks.

    Raises `UserError` where torchrun or srun have started another number of processes than `devices`.
    """
    ranks = launched() if config.devices > 1 else Ranks()
    if config.devices > 1 and ranks.world not in (1, config.devices):
        remedy = f"torchrun or srun has started {ranks.world} processes; use devices={ranks.world}, or start as many"
        raise bad_value("devices", config.devices, remedy)
    return ranks


def needs_processes(config: Config) -> bool:
    """Whether the job's processes are still to be started."""
    return config.devices > ranks_of(config).world


def training_device(config: Config) -> torch.device:
    """Where this process trains."""
    if config.accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if config.devices > 1:
        use_own_gpu(ranks_of(config).local_rank, config.accelerator)
    return torch.device("cuda", torch.cuda.current_device())


def join(config: Config) -> tuple[Ranks, Batch]:
    """Prepare this process for its job, and meet the others of it; they stay together until they end."""
    ranks = ranks_of(config)
    rank_zero_only.rank = ranks.rank  # with devices=1 a job is one process, whatever RANK or SLURM_PROCID say
    if ranks.world == 1:
        return ranks, WHOLE
    use_threads(config.threads or max(1, len(os.sched_getaffinity(0)) // config.devices))
    device = training_device(config)
    if not dist.is_initialized():
        if "MASTER_ADDR" not in os.environ:  # srun sets neither
            slurm = SLURMEnvironment()
            os.environ |= {"MASTER_ADDR": slurm.main_address, "MASTER_PORT": str(slurm.main_port)}
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, rank=ranks.rank, world_size=ranks.world, timeout=TIMEOUT)
        atexit.register(dist.destroy_process_group)
    return ranks, SharedBatch()


class Together(pl.Callback):
    """Every device begins with the first one's weights, at the first one's step."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        batch = pl_module.sae.batch
        assert isinstance(batch, SharedBatch)
        step = torch.tensor(trainer.global_step, device=pl_module.device)
        batch.share([step])
        if step != trainer.global_step:
            where = f"{trainer.global_step}, the first one's at step {step.item()}"
            raise UserError(f"run_root: this process finds the checkpoint of step {where}; use a folder they all see")
        batch.share([*pl_module.parameters(), *pl_module.buffers()])


class Follower(pl.Callback):
    """What a process other than the first does where the job is asked to stop: it goes on until the first one stops.

    The first one saves behind its step, for which it needs the others. `is_asked` tells that SIGTERM came.
    """

    is_asked = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        def note(*_: object) -> None:
            self.is_asked = True

        signal.signal(signal.SIGTERM, note)
