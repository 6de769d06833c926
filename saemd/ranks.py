"""Which of several processes this is, as torchrun and Slurm number those that they start together."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from saemd.errors import bad_value

_VARIABLES = (  # of rank, number of processes, and rank on this machine
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),  # torchrun
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),  # srun
)


@dataclass(frozen=True)
class Ranks:
    """This process among `world` processes that were started together."""

    rank: int = 0  # from 0 to world - 1
    world: int = 1
    local_rank: int = 0  # among the processes of this machine, from 0


def launched(environment: Mapping[str, str] = os.environ) -> Ranks:
    """What torchrun or `srun` say of this process; `Ranks()` for one that was started alone.

    Inside a program that torchrun started, its variables count and Slurm's do not. Raises `UserError` for variables
    that are no numbers or contradict each other.
    """
    for names in _VARIABLES:
        if all(environment.get(name) for name in names[:2]):
            rank, world, local_rank = (_number(name, environment.get(name) or "0") for name in names)
            if rank >= world:
                raise bad_value(names[0], rank, f"it must be below {names[1]}={world}; unset both to start one process")
            return Ranks(rank, world, local_rank)
    return Ranks()


def _number(name: str, value: str) -> int:
    if not value.isdecimal():
        raise bad_value(name, value, "it must be a number, as torchrun and srun set it; unset it to start one process")
    return int(value)


def use_own_gpu(local_rank: int, accelerator: str) -> None:
    """Make GPU number `local_rank` of those that this process sees the one that `cuda` stands for.

    With more processes than GPUs, or where a scheduler shows each process a GPU of its own, numbers begin again at 0.
    """
    if accelerator != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
