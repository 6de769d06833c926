"""Patching one layer's output: the plain pass and the short one agree for every family, and change what they should."""

from typing import Any

import pytest
import torch

from saemd.lm.load import residual_stream
from saemd.lm.patch import clean_pass, final_states, logits, patched, upper_states
from tests.lm.models import CONFIGS, IDS, LAYER, tiny, tokens


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
def test_the_short_pass_is_the_plain_one(config):
    model: Any = tiny(config)
    ids = tokens()
    residual, states = clean_pass(model, LAYER, ids)
    with torch.inference_mode():
        whole = model(input_ids=ids, use_cache=False).logits
    assert torch.equal(residual, residual_stream(model, LAYER, ids))
    assert torch.allclose(logits(model, states), whole, atol=1e-5)
    assert torch.allclose(upper_states(model, LAYER, ids, residual), states, atol=1e-6)

    other = residual + torch.randn(residual.shape, generator=torch.Generator().manual_seed(2))
    with patched(model, LAYER, lambda _: other):
        plain = final_states(model, ids)
    assert torch.allclose(upper_states(model, LAYER, ids, other), plain, atol=1e-6)
    assert not torch.allclose(plain, states, atol=1e-2)
    assert torch.equal(final_states(model, ids), states)  # nothing of it stays behind


def test_the_model_is_itself_again_after_an_error():
    model = tiny(CONFIGS[0])
    ids = tokens()
    residual, states = clean_pass(model, LAYER, ids)
    with pytest.raises(RuntimeError):
        upper_states(model, LAYER, ids, residual[..., :3])
    assert torch.equal(final_states(model, ids), states)
