"""The plan's arithmetic against what really happens: FLOPs that torch counts, bytes that a tiny run writes."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from saemd.composition import compose_all
from saemd.lm.config import LMConfig
from saemd.lm.load import residual_stream
from saemd.planning import costs
from saemd.planning.known import KNOWN
from saemd.planning.model import LanguageModel, describe
from saemd.planning.work import find_work
from saemd.sae.registry import ARCHITECTURES
from tests.lm.models import CONFIGS, IDS, tokens


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
def test_flops_of_the_language_model_are_those_that_torch_counts(config):
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    ids_BT = tokens()
    counter = FlopCounterMode(display=False)
    with counter:
        residual_stream(model, 2, ids_BT)
    planned = LanguageModel(LMConfig("tiny"), config, None).flops_per_token(2, ids_BT.shape[1])
    assert counter.get_total_flops() == pytest.approx(ids_BT.numel() * planned, rel=0.02)


@pytest.mark.parametrize(("name", "products"), [("jumprelu", 5), ("topk", 6), ("batch_topk", 6), ("gated", 8)])
def test_products_of_a_training_step(name, products):
    assert costs.sae_products(ARCHITECTURES[name].Config(name=name)) == pytest.approx(products, rel=0.01)


def test_every_architecture_can_be_planned():
    assert all(4 < costs.sae_products(ARCHITECTURES[name].Config(name=name)) < 10 for name in ARCHITECTURES)


@pytest.mark.parametrize(
    ("name", "d_model", "mlp_width", "billions"),
    [
        ("google/gemma-2-2b", 2304, 9216, 2.614),
        ("gemma-3-270m", 640, 2048, 0.268),
        ("SmolLM2-135M-Instruct", 576, 1536, 0.1345),
    ],
)
def test_known_models_have_their_published_sizes(name, d_model, mlp_width, billions, tmp_path):
    model = describe(LMConfig(name), tmp_path)
    assert (model.d_model, model.mlp_width, model.folder) == (d_model, mlp_width, None)
    assert model.parameters() / 1e9 == pytest.approx(billions, rel=0.005)
    assert model.parameters(1) < model.parameters(2) < model.parameters()


def test_every_model_of_the_configuration_is_known():
    named = {
        config.lm.name for lm in ("gemma2_2b", "smollm2_135m", "gemma3_270m") for config in compose_all([f"lm={lm}"])
    }
    assert named == {*KNOWN}


@pytest.mark.parametrize("sae", ["jumprelu", "topk"])
def test_bytes_on_disk_are_those_that_a_run_writes(sae, world, command, tmp_path):
    arguments = [
        *world, f"sae={sae}", "d_sae=2048", "init=uniform", "tokens=640", f"run_root={tmp_path / 'runs'}",
        f"cache_root={tmp_path / 'cache'}",
    ]  # fmt: skip
    planned = {need.what: need for need in _disk(arguments)}
    assert not any(need.here for what, need in planned.items() if not what.startswith("model"))
    assert command(*arguments) == 0
    for what, folder in (("activations of layer 1", "cache/activations"), ("run directory", "runs")):
        written = sum(path.stat().st_size for path in (tmp_path / folder).rglob("*") if path.is_file())
        assert planned[what].left == pytest.approx(written, rel=0.04)
    again = _disk(arguments)
    assert [need.left for need in again] == [0] * len(again)
    assert {need.what: need.bytes for need in again} == pytest.approx(
        {k: n.bytes for k, n in planned.items()}, rel=0.04
    )


def test_memory_grows_with_what_is_trained(world):
    small, large = (find_work(compose_all([*world, "init=uniform", f"d_sae={n}"]), False).jobs[0] for n in (512, 1024))
    assert costs.training_memory(large)[0].bytes == 2 * costs.training_memory(small)[0].bytes
    sae = costs.empty_sae(small.config, 16, 512)
    assert sae.W_dec.device == torch.device("meta")
    assert costs.training_memory(small)[0].bytes >= 3 * 4 * sum(p.numel() for p in (sae.W_enc, sae.W_dec))


def _disk(arguments: list[str]) -> list[costs.Need]:
    work = find_work(compose_all(arguments), is_sweep=False)
    for need in (needs := list(costs.disk(work.harvests, work.jobs))):
        assert need.place is None or isinstance(need.place, Path)
    return needs
