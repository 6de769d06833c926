"""Which of several processes this is."""

from __future__ import annotations

import pytest
import torch

from saemd.cache import use_own_gpu
from saemd.errors import UserError
from saemd.ranks import Ranks, launched

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
SLURM = {"SLURM_PROCID": "5", "SLURM_NTASKS": "6", "SLURM_LOCALID": "2"}


@pytest.mark.parametrize(
    ("environment", "ranks"),
    [
        ({}, Ranks(0, 1, 0)),
        (TORCHRUN, Ranks(3, 8, 1)),
        (SLURM, Ranks(5, 6, 2)),
        (SLURM | TORCHRUN, Ranks(3, 8, 1)),
        (SLURM | {"RANK": "3"}, Ranks(5, 6, 2)),  # a lone RANK is not torchrun's
        ({"RANK": "0", "WORLD_SIZE": "2"}, Ranks(0, 2, 0)),
        ({"SLURM_NTASKS": "4"}, Ranks()),  # a shell inside an allocation, without srun
    ],
)
def test_launched(environment: dict[str, str], ranks: Ranks):
    assert launched(environment) == ranks


def test_variables_that_are_no_ranks_are_refused():
    with pytest.raises(UserError, match=r"^RANK=two: .*unset it"):
        launched(TORCHRUN | {"RANK": "two"})
    with pytest.raises(UserError, match=r"^RANK=8: it must be below WORLD_SIZE=8"):
        launched(TORCHRUN | {"RANK": "8"})


@pytest.mark.parametrize(("local_rank", "gpus", "own"), [(0, 1, 0), (2, 4, 2), (3, 1, 0), (5, 4, 1)])
def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch, local_rank: int, gpus: int, own: int):
    chosen = list[int]()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    use_own_gpu(local_rank, "auto")
    use_own_gpu(local_rank, "cpu")
    assert chosen == [own]
