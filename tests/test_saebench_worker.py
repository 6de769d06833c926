"""Every SAEBench score through SAEBench's own code, offline: a tiny Gemma-2, a made-up params.npz, small local data.

Needs the environment that `make saebench` builds. The worker has SAEBench validate each of its files.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from saemd.lm.load import residual_stream
from saemd.quality.bench import Bench
from saemd.quality.saebench import environment, gemma_scope, settings
from saemd.quality.saebench.scores import SAEBENCH_SCORES
from saemd.quality.score import Outcome, Subject
from saemd.sae.export import load_sae
from tests import saebench_world as tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (environment.environment() / "bin" / "python").is_file(), reason="no .venv-saebench: run `make saebench`"
    ),
]


@dataclass(frozen=True)
class World:
    root: Path
    data: Path
    bench: Bench
    run: Subject
    scope: Subject  # as Gemma Scope's


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, cache_root: Path) -> World:
    root = tmp_path_factory.mktemp("saebench")
    data = tiny.save_data(root / "data")
    model = tiny.kept_model(cache_root)
    for name in ("gemma-2-2b", "gemma-2-2b-it"):
        (root / name).symlink_to(model)
    corpus = {"name": "files", "path": str(data / "corpus"), "heldout_fraction": 0.3}
    lm = {"name": str(root / "gemma-2-2b")}
    config = {"lm": lm, "corpus": corpus, "activations": {"context_length": 64}, "layer": tiny.LAYER}
    bench = Bench(config, root / "cache")
    tokenizer, texts = bench.lm.tokenizer, list(bench.texts())[:60]
    ids = tokenizer(texts, return_tensors="pt", padding="max_length", truncation=True, max_length=64)["input_ids"]
    activations = residual_stream(bench.lm, tiny.LAYER, ids)[:, 1:].reshape(-1, tiny.D_MODEL)
    weights = tiny.save_run(root / "runs" / "init=uniform" / "l0=4" / "seed=0", tiny.sae_like(activations, 0))
    run = Subject("uniform", 4, 0, None, tiny.D_MODEL, weights.parent, weights, partial(load_sae, weights.parent))
    tiny.save_gemma_scope(root / "scope", tiny.sae_like(activations, 1))
    (scope,) = gemma_scope.subjects(root / "scores", str(root / "scope"), (82,), tiny.LAYER)
    return World(root, data, bench, run, scope)


def measure(world: World, score: str, chosen: settings.SAEBenchSettings, *subjects: Subject) -> list[Outcome]:
    wanted = list(subjects) or [world.run, world.scope]
    found = dict(SAEBENCH_SCORES[f"saebench_{score}"].measure(world.bench, chosen, wanted))
    return [found[subject] for subject in wanted]


BIOS = "LabHC/bias_in_bios_class_set1"
SMALL: dict[str, Any] = {"llm_dtype": "float32", "llm_batch_size": 8}
SHIFT: dict[str, Any] = {
    "dataset_names": [BIOS], "train_set_size": 64, "test_set_size": 32, "context_length": 24, "n_values": [2, 20],
}  # fmt: skip
CHOSEN: dict[str, settings.SAEBenchSettings] = {
    "core": settings.CoreSettings(
        **SMALL, text="heldout", batch_size_prompts=4, n_eval_reconstruction_batches=4,
        n_eval_sparsity_variance_batches=4, context_size=64,
    ),
    "probing": settings.ProbingSettings(
        **SMALL, dataset_names=[BIOS, "fancyzhx/ag_news"], probe_train_set_size=64, probe_test_set_size=32,
        context_length=24,
    ),
    "sae_probes": settings.SaeProbesSettings(dataset_names=["119_us_state_TX"]),
    "absorption": settings.AbsorptionSettings(**SMALL),
    "ravel": settings.RavelSettings(
        **SMALL, entity_attribute_selection={"city": ["Country", "Language", "Continent"]}, top_n_entities=24,
        num_pairs_per_attribute=40, learning_rate=1.0, num_epochs=4,
    ),
    "unlearning": settings.UnlearningSettings(
        **SMALL, dataset_names=["wmdp-bio", "human_aging", "high_school_geography"], dataset_size=8, seq_len=64,
        multipliers=[100, 1000], n_features_list=[5, 20], retain_thresholds=[0.01, 0.2],
    ),
    "scr": settings.ScrSettings(**SMALL, **SHIFT, column1_vals_lookup={BIOS: [["professor", "nurse"]]}),
    "tpp": settings.TppSettings(**SMALL, **SHIFT),
}  # fmt: skip


@pytest.mark.parametrize("score", CHOSEN)
def test_each_score_comes_out_of_saebench_itself(world, score):
    chosen = replace(CHOSEN[score], data=str(world.data))
    if isinstance(chosen, settings.UnlearningSettings):
        chosen = replace(chosen, lm=str(world.root / "gemma-2-2b-it"))
    for outcome in measure(world, score, chosen):
        assert outcome.status == "done", outcome.reason
        assert outcome.value is not None
        assert math.isfinite(outcome.value)
        assert outcome.versions["sae-bench"] == "0.6.0"
        for file in outcome.details["results"]:
            assert json.loads(Path(file).read_text())["sae_cfg_dict"]["d_sae"] == tiny.D_SAE


def test_what_ravel_changes_reaches_the_answers(world):
    """A mask that lets other attributes through would leave isolation at 1 and cause at 0: here neither is."""
    (outcome,) = measure(world, "ravel", replace(CHOSEN["ravel"], data=str(world.data)), world.run)
    assert (outcome.values["ravel.cause_score"] or 0) > 0.1
    assert (outcome.values["ravel.isolation_score"] or 0) < 1


def test_repetitions_have_seeds_of_their_own(world):
    chosen = settings.TppSettings(**SMALL, **SHIFT, data=str(world.data), repetitions=2, headline=2)
    (outcome,) = measure(world, "tpp", chosen, world.run)
    assert (outcome.repetitions, outcome.spread) == (2, "seeds of its draws")
    assert len(set(outcome.details["results"])) == 2


def test_a_missing_data_set_and_one_too_small_are_told_in_one_line(world, tmp_path):
    offline = {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    (tmp_path / "empty").mkdir()
    nothing = settings.TppSettings(**SMALL, **SHIFT, data=str(tmp_path / "empty"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in offline.items():
            patch.setenv(name, value)
        (missing,) = measure(world, "tpp", nothing, world.run)
    assert missing.status == "failed"
    assert missing.reason is not None
    assert missing.reason.startswith("a data set cannot be had")
    assert "LabHC/bias_in_bios" in missing.reason
    small = settings.ScrSettings(**SMALL, **{**SHIFT, "train_set_size": 400}, data=str(world.data))
    (outcome,) = measure(world, "scr", small, world.run)
    assert (outcome.status, outcome.value) == ("failed", None)
    assert outcome.reason is not None
    assert outcome.reason.startswith("a data set is too small")
    assert "\n" not in outcome.reason + missing.reason
    few = settings.TppSettings(**SMALL, **{**SHIFT, "train_set_size": 4000}, data=str(world.data))
    (outcome,) = measure(world, "tpp", few, world.run)
    assert outcome.reason is not None
    assert "has fewer texts than train_set_size=4000 and test_set_size=32 ask for" in outcome.reason


def test_an_sae_of_another_layer_or_width_fails_alone(world, tmp_path):
    path = tiny.save_gemma_scope(tmp_path, world.scope.load(), layer=2)
    stranger = Subject(
        "gemma-scope", 82, None, None, tiny.D_MODEL, tmp_path, path, partial(gemma_scope.read_params, path)
    )
    chosen = CHOSEN["core"]
    other, fine = measure(world, "core", chosen, stranger, world.run)
    assert other.reason == f"gemma_scope={path}: this SAE is of layer 2, the runs are of layer {tiny.LAYER}"
    assert fine.status == "done"


def test_what_the_model_cannot_do_is_not_applicable_with_what_was_measured(world):
    letters = settings.AbsorptionSettings(**SMALL, min_GT_probe_f1=0.999, max_k_value=2)
    (outcome,) = measure(world, "absorption", letters, world.run)
    assert (outcome.status, outcome.value) == ("not applicable", None)
    assert outcome.reason is not None
    assert "of 26 first letters can be read from this layer (F1 above 0.999), 20 are wanted" in outcome.reason


def test_another_list_of_sae_probes_data_sets_passes_only_new_texts(world):
    one, other = "119_us_state_TX", "22_headline_isobama"
    chosen = settings.SaeProbesSettings(include_llm_baseline=False, ks=[1], dataset_names=[one])
    (first,) = measure(world, "sae_probes", chosen, world.run)
    (kept,) = world.bench.folder("saebench").glob("last-tokens-*/*/*.pt")  # the probes on the layer used it too
    before = kept.stat().st_mtime_ns
    (both,) = measure(world, "sae_probes", replace(chosen, dataset_names=[one, other]), world.run)
    assert len(list(kept.parent.iterdir())) == 2
    assert kept.stat().st_mtime_ns == before
    assert (first.repetitions, both.repetitions) == (1, 2)
    (again,) = measure(world, "sae_probes", replace(chosen, ks=[1, 2]), world.run)
    assert again.value == first.value
    assert again.values.keys() > first.values.keys()
    (wrong,) = measure(world, "sae_probes", replace(chosen, dataset_names=[one, "119_us_state_T"]), world.run)
    assert wrong.status == "failed"
    assert wrong.reason is not None
    assert wrong.reason.startswith("dataset_names=119_us_state_T: sae-probes has 113 data sets; near this name: 119")


# What runs inside the other environment

CHECKS = """
import dataclasses, json, sys, torch
from pathlib import Path
from transformer_lens import HookedTransformer
from saemd.quality.saebench import adapter, models, settings
from saemd.quality.saebench.replaced import replaced
from saemd.sae.export import load_sae

folder, weights, layer, x, out = sys.argv[1:]
prepared = models.prepare(Path(folder), Path(out) / "prepared")
model = models.hooked(prepared, "gemma-2-2b", "cpu", torch.float32)
sae = adapter.load(Path(weights), "gemma-2-2b", int(layer), model.cfg.d_model, "cpu", torch.float32)
assert sae.check_decoder_norms()
with replaced(HookedTransformer, from_pretrained=lambda *a, **k: model):
    sae.test_sae("gemma-2-2b")
half = adapter.load(Path(weights), "gemma-2-2b", int(layer), model.cfg.d_model, "cpu", torch.bfloat16)
assert half.check_decoder_norms() and half.dtype == half.W_enc.dtype == torch.bfloat16
assert dataclasses.is_dataclass(sae.cfg) and json.dumps(sae.cfg.to_dict())

tokens = torch.load(x)
activations = model.run_with_cache(tokens)[1][sae.cfg.hook_name]
own = load_sae(Path(weights).parent)
latents = sae.encode(activations)
torch.testing.assert_close(latents, own.encode(activations))
torch.testing.assert_close(sae(activations), own(activations))
before = latents.clone()
sae.encode(activations)[:] = 0  # as SCR does
assert torch.equal(sae.encode(activations), before)
torch.save({"logits": model(tokens), "activations": activations}, Path(out) / "found.pt")
"""


def other_python(code: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
    surroundings = {**os.environ, "PYTHONPATH": str(environment.REPOSITORY)}
    command = [environment.python(), "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=surroundings, capture_output=True, text=True)


def test_saebenchs_own_checks_pass_and_both_environments_see_the_same_model(world, tmp_path):
    """Its rotary base is not the default: an older transformers that skips it would give other logits."""
    tokens = torch.arange(1, 33)[None] * 7 % 700
    torch.save(tokens, tmp_path / "x.pt")
    ran = other_python(CHECKS, world.bench.lm_config.name, world.run.weights, tiny.LAYER, tmp_path / "x.pt", tmp_path)
    assert ran.returncode == 0, ran.stderr
    found = torch.load(tmp_path / "found.pt")
    torch.testing.assert_close(found["logits"], world.bench.lm.model(tokens).logits, atol=1e-3, rtol=1e-3)
    expected = residual_stream(world.bench.lm, tiny.LAYER, tokens)
    torch.testing.assert_close(found["activations"], expected, atol=1e-3, rtol=1e-3)


DEFAULTS = """
from sae_bench.evals.absorption.eval_config import AbsorptionEvalConfig
from sae_bench.evals.autointerp.eval_config import AutoInterpEvalConfig
from sae_bench.evals.core.eval_config import CoreEvalConfig
from sae_bench.evals.ravel.eval_config import RAVELEvalConfig
from sae_bench.evals.scr_and_tpp.eval_config import ScrAndTppEvalConfig
from sae_bench.evals.sparse_probing.eval_config import SparseProbingEvalConfig
from sae_bench.evals.sparse_probing_sae_probes.eval_config import SparseProbingSaeProbesEvalConfig
from sae_bench.evals.unlearning.eval_config import UnlearningEvalConfig
from saemd.quality.saebench import settings as ours

PAIRS = [
    (ours.AbsorptionSettings, AbsorptionEvalConfig), (ours.AutoInterpSettings, AutoInterpEvalConfig),
    (ours.RavelSettings, RAVELEvalConfig), (ours.ScrSettings, ScrAndTppEvalConfig),
    (ours.TppSettings, ScrAndTppEvalConfig), (ours.ProbingSettings, SparseProbingEvalConfig),
    (ours.SaeProbesSettings, SparseProbingSaeProbesEvalConfig), (ours.UnlearningSettings, UnlearningEvalConfig),
]
plain = lambda value: [plain(v) for v in value] if isinstance(value, (list, tuple)) else (
    {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value)
for own, theirs in PAIRS:
    published = theirs()
    for key, value in own().config().items():
        if key not in ("llm_batch_size", "llm_dtype", "perform_scr"):  # set by SAEBench's runner
            assert plain(value) == plain(getattr(published, key)), (own, key, value, getattr(published, key))
assert not set(ours.CoreSettings().config()) - {*vars(CoreEvalConfig()), "llm_dtype"}
assert ours.AutoInterpSettings().text == AutoInterpEvalConfig().dataset_name
assert ours.CoreSettings().text == CoreEvalConfig().dataset
"""


def test_the_defaults_are_saebenchs_own():
    ran = other_python(DEFAULTS)
    assert ran.returncode == 0, ran.stderr
