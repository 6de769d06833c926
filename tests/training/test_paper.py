"""`experiment=paper` against table 1 of the paper, and the same path from the first byte to the report in small."""

import json

import pytest
import yaml
from transformers import Gemma2Config

from saemd.arguments import CONF
from saemd.composition import compose_all
from saemd.quality.config import compose_evaluation
from saemd.sae import JumpReLUConfig
from saemd.sae.warmup import warmup_length
from saemd.training.schedules import schedule
from tests.pipeline import WORDS, save_jsonl, save_model


def test_table_1():
    jobs = compose_all(["-m", "experiment=paper", "init=mirror,uniform", "seed=24,42", "l0=20,320"])
    assert len({(job.init.name, job.seed, job.l0) for job in jobs}) == 8
    for job in jobs:
        assert (job.lm.name, job.layer, job.d_sae) == ("google/gemma-2-2b", 12, 18_432)
        assert job.corpus.dataset == "monology/pile-uncopyrighted"
        assert (job.tokens, job.activations.tokens, job.batch_size) == (500_000_000, 500_000_000, 2048)
        assert job.activations.context_length == 1024
        assert job.activations.outlier_factor is None
        assert isinstance(job.sae, JumpReLUConfig)
        assert (job.init.encoder, job.sae.threshold) == ("tied", 0.001)
        assert (job.init_seed, job.data_seed) == (job.seed, job.seed)
        recipe = job.recipe
        assert (recipe.lr, recipe.adam_beta2, recipe.adam_eps, recipe.grad_clip_norm) == (3e-4, 0.999, 1e-8, 1.0)
        sae = job.sae
        assert (sae.bandwidth, sae.sparsity_coefficient, sae.threshold_lr) == (0.001, 1.0, 1.0)
        assert (sae.step_on, sae.positive_threshold, sae.bias) == ("post", False, "separate")
        plan = schedule(recipe, job.tokens // job.batch_size)
        assert (plan.steps, plan.lr_warmup, warmup_length(sae, "sparsity", plan.steps)) == (244_140, 1000, 5000)
        assert plan.lr_decay_start == 244_140 * 4 // 5


@pytest.mark.parametrize("path", sorted(CONF.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}={path.stem}")
def test_every_yaml_composes(path):
    needs = {"hf": ["lm.name=x/y"], "files": ["corpus.path=."]}.get(path.stem, [])
    compose = compose_evaluation if path.parent.name == "quality" else compose_all
    assert compose([f"{path.parent.name}={path.stem}", *needs])


@pytest.mark.slow
def test_the_preset_from_the_first_byte_to_the_report(command, tmp_path):
    """A random Gemma-2 in a local folder and a local file in the Pile's format stand in for the hub's."""
    config = Gemma2Config(
        vocab_size=len(WORDS) + 3, hidden_size=16, intermediate_size=24, num_hidden_layers=14, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=1024, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    text = save_jsonl(tmp_path / "pile" / "train" / "00.jsonl", 400)
    arguments = [
        "-m", "experiment=paper", "init=mirror,uniform", "seed=24,42", "l0=4", f"run_root={tmp_path / 'runs'}",
        f"lm.name={save_model(tmp_path / 'gemma', config)}", f"corpus.path={text.parent}", "d_sae=48",
        f"cache_root={tmp_path / 'cache'}", "activations.tokens=4000", "activations.heldout_tokens=500",
        "activations.context_length=64", "activations.shard_tokens=2048", "tokens=8192", "batch_size=64",
        "recipe.lr_warmup_steps=10", "sae.sparsity_warmup_steps=20", "logger=csv", "threads=1",
    ]  # fmt: skip
    assert command(*arguments) == 0
    records = json.loads((tmp_path / "runs" / "stability" / "stability.json").read_text())
    assert [(r["init"], r["encoder"], r["same_start_dec"]) for r in records] == [
        ("mirror", ["tied", "tied"], True), ("uniform", ["tied", "tied"], False),
    ]  # fmt: skip
    about = yaml.safe_load((tmp_path / "runs" / "init=mirror" / "l0=4" / "seed=24" / "config.yaml").read_text())
    assert about["config"]["sae"]["step_on"] == "post"
    assert (tmp_path / "runs" / "stability" / "report.html").is_file()
