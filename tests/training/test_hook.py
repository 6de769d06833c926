"""Training on what the MLP adds to the residual stream (`activations.hook=mlp_out`)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from saemd.activations.harvest.open import LMOnText
from saemd.activations.registry import describe_source, open_source
from saemd.composition import compose_all
from saemd.errors import UserError
from saemd.lm.load import mlp_output, residual_stream
from saemd.quality.bench import Bench
from saemd.runs import identify, read_config, run_dir
from saemd.training.run import train

MLP_OUT = "activations.hook=mlp_out"


def test_activations_are_the_mlps_outputs(world, tmp_path):
    """Those of a held-out context are in the cache, in an order of its own; its residual stream is not."""
    words = [MLP_OUT, "activations.lm_dtype=float32", "activations.outlier_factor=null", f"cache_root={tmp_path}"]
    (config,) = compose_all([*world, *words])
    source = open_source(config.lm, 1, config.corpus, config.activations, tmp_path, accelerator="cpu")
    cached_ND = next(iter(source.heldout(600))) * source.scale
    lm = LMOnText(config.lm, 1, config.corpus, config.activations, tmp_path, "cpu", "float32")
    ids_T, keep_T = next(lm.contexts["heldout"]())
    for read, agrees in ((mlp_output, True), (residual_stream, False)):
        x_ND = read(lm.lm.model, 1, ids_T[None])[0][keep_T]
        distance_N = torch.cdist(x_ND, cached_ND).min(1).values
        assert (distance_N < 0.01 * x_ND.norm(dim=1)).tolist() == [agrees] * len(x_ND)  # stored as bfloat16


def test_a_run_says_what_it_was_trained_on(world, tmp_path):
    (config,) = compose_all([*world, MLP_OUT, f"run_root={tmp_path}", "tokens=128"])
    train(config)
    folder = run_dir(config)
    metadata = json.loads((folder / "cfg.json").read_text())["metadata"]
    assert metadata["hook_name"] == "blocks.1.hook_mlp_out"
    assert yaml.safe_load((folder / "config.yaml").read_text())["config"]["activations"]["hook"] == "mlp_out"
    with pytest.raises(UserError, match=r"activations\.hook=mlp_out: .* only runs with residual are measured"):
        Bench(read_config(folder)["config"], Path(config.cache_root))


def test_the_hook_is_part_of_the_identity(world):
    found = []
    for words in ([], [MLP_OUT]):
        (config,) = compose_all([*world, *words])
        root = Path(config.cache_root)
        origin = describe_source(config.lm, config.layer, config.corpus, config.activations, root)
        found.append(identify(config, origin))
    for key in ("fingerprint", "sibling_fingerprint", "cache_fingerprint"):
        assert found[0][key] != found[1][key]


def test_another_hook_is_refused():
    with pytest.raises(UserError, match=r"activations\.hook=attn_out: known are residual, mlp_out"):
        compose_all(["activations.hook=attn_out"])
