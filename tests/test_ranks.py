"""Which of several processes this is."""

from __future__ import annotations

import pytest

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
