"""Several threads run one language model: torch's threads are divided, and no pass sees another one's activations."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from saemd.lm.load import residual_stream
from saemd.lm.workers import divided_threads, sharing_weights
from tests.lm.models import CONFIGS, IDS, LAYER, tiny, tokens


def threads_of_a_new_thread() -> int:
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(torch.get_num_threads).result()


def test_torchs_threads_are_divided_and_given_back() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with divided_threads("cpu") as workers:
            assert (workers, threads_of_a_new_thread()) == (3, 1)
        assert torch.get_num_threads() == threads_of_a_new_thread() == 3
        with contextlib.suppress(KeyboardInterrupt), divided_threads("cpu"):
            raise KeyboardInterrupt
        assert torch.get_num_threads() == threads_of_a_new_thread() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
def test_copies_with_the_same_weights_run_in_threads(config):
    model = tiny(config)
    copies = [sharing_weights(model) for _ in range(3)]
    for copy in copies:
        assert [id(tensor) for tensor in copy.parameters()] == [id(tensor) for tensor in model.parameters()]
        assert not {id(module) for module in copy.modules()} & {id(module) for module in model.modules()}
    batches = [tokens().roll(i, dims=1) for i in range(3)]
    with ThreadPoolExecutor(3) as threads:
        results = list(threads.map(lambda copy, ids: residual_stream(copy, LAYER, ids), copies, batches))
    for ids, result in zip(batches, results, strict=True):
        assert torch.equal(result, residual_stream(model, LAYER, ids))
