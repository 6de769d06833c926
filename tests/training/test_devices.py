"""One SAE on several devices: the same steps as on one, files once, and a job that goes on with any number of them."""

from __future__ import annotations

import pytest

from saemd.training.processes import in_processes
from tests.training import sharing

# Errors relative to the largest value. The plain loss runs in float64; of twins it is one step, in which the CPU's may
# multiply factors rounded to bfloat16.
TOLERANCES = {"twin cpu": 1e-2, "twin gpu": 1e-5, "stack": 1e-5}


def assert_same(one: dict, several: dict) -> None:
    assert one.keys() == several.keys()
    for case, expected in one.items():
        tolerance = next((value for kind, value in TOLERANCES.items() if kind in case), 1e-9)
        for name, value in expected.items():
            error = (several[case][name].double() - value.double()).abs().max()
            assert error <= tolerance * value.double().abs().max().clamp(min=1e-3), f"{case} {name}: {error}"


def test_steps_through_collectives_are_those_of_one_device():
    assert_same(sharing.of_one(steps=8), sharing.through_a_group_of_one(steps=8))


@pytest.mark.slow
def test_devices_that_share_a_batch_make_the_steps_of_one():
    assert_same(sharing.of_one(sharing.STEPS), in_processes(sharing.of_several, sharing.STEPS, devices=2))
