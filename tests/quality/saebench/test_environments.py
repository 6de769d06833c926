"""Both environments agree: on the SAE, on the model's logits, and on the settings' defaults.

Needs the environment that `make saebench` builds.
"""

from __future__ import annotations

import torch

from saemd.lm.load import residual_stream
from tests.quality.saebench import world as tiny
from tests.quality.saebench.real import NEEDS_SAEBENCH, other_python

pytestmark = NEEDS_SAEBENCH

CHECKS = """
import dataclasses, json, sys, torch
from pathlib import Path
from unittest.mock import patch
from transformer_lens import HookedTransformer
from saemd.quality.saebench.worker import adapter, models
from saemd.sae import load_sae

folder, weights, layer, x, out = sys.argv[1:]
prepared = models.prepare(Path(folder), Path(out) / "prepared")
model = models.hooked(prepared, "gemma-2-2b", "cpu", torch.float32)
sae = adapter.load(Path(weights), "gemma-2-2b", int(layer), model.cfg.d_model, "cpu", torch.float32)
assert sae.check_decoder_norms()
with patch.multiple(HookedTransformer, from_pretrained=lambda *a, **k: model):
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


ADAPTED = """
import torch
from saemd.quality.saebench.worker.adapter import SAEBenchSAE
from saemd.sae import ARCHITECTURES

torch.manual_seed(0)
x = 3 * torch.randn(2, 9, 16)
for name, architecture in ARCHITECTURES.items():
    sae = architecture(16, 64, target_l0=5, scale=2.0)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn_like(parameter))
        sae.normalise_decoder()
    for dtype in (torch.float32, torch.bfloat16):
        adapted, folded = SAEBenchSAE(sae, "m", 1, "cpu", dtype), sae.folded().to(dtype)
        assert {parameter.dtype for parameter in adapted.parameters()} == {dtype} == {adapted.dtype}
        assert not any(parameter.requires_grad for parameter in adapted.parameters())
        y = x.to(dtype)
        z = adapted.encode(y)
        assert torch.equal(z, folded.encode(y).relu()) and torch.equal(adapted(y), folded.decode(z)) and z.any()
        for own, parameter in folded.named_parameters():
            assert torch.equal(getattr(adapted, own), parameter)
        assert adapted.b_enc is not None and adapted.cfg.architecture == folded.saelens  # SAEBench reads b_enc
        if name == "jumprelu":
            pre = y @ folded.W_enc + folded.b_enc  # SAEBench's own formula
            assert torch.equal(z, torch.relu(pre) * (pre > folded.threshold))
            assert torch.equal(adapted(y), z @ folded.W_dec + folded.b_dec)
            assert (pre[pre > folded.threshold] < 0).any()  # such a latent is negative, which SAEBench's never are
"""


def test_saes_of_all_architectures_are_adapted_and_a_jumprelu_gives_the_bits_of_saebenchs_formula():
    ran = other_python(ADAPTED)
    assert ran.returncode == 0, ran.stderr


DEFAULTS = """
from sae_bench.evals.absorption.eval_config import AbsorptionEvalConfig
from sae_bench.evals.autointerp.eval_config import AutoInterpEvalConfig
from sae_bench.evals.core.eval_config import CoreEvalConfig
from sae_bench.evals.ravel.eval_config import RAVELEvalConfig
from sae_bench.evals.scr_and_tpp.eval_config import ScrAndTppEvalConfig
from sae_bench.evals.sparse_probing.eval_config import SparseProbingEvalConfig
from sae_bench.evals.sparse_probing_sae_probes.eval_config import SparseProbingSaeProbesEvalConfig
from sae_bench.evals.unlearning.eval_config import UnlearningEvalConfig
from saemd.quality.saebench.evaluations import EVALUATIONS

CONFIGS = {
    "absorption": AbsorptionEvalConfig, "autointerp": AutoInterpEvalConfig, "ravel": RAVELEvalConfig,
    "scr": ScrAndTppEvalConfig, "tpp": ScrAndTppEvalConfig, "sparse_probing": SparseProbingEvalConfig,
    "sae_probes": SparseProbingSaeProbesEvalConfig, "unlearning": UnlearningEvalConfig,
}
own = {name: evaluation.settings() for name, evaluation in EVALUATIONS.items()}
plain = lambda value: [plain(v) for v in value] if isinstance(value, (list, tuple)) else (
    {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value)
assert own.keys() == {*CONFIGS, "core"}
for name, config in CONFIGS.items():
    published = config()
    for key, value in own[name].config().items():
        if key not in ("llm_batch_size", "llm_dtype", "perform_scr"):  # set by SAEBench's runner
            assert plain(value) == plain(getattr(published, key)), (name, key, value, getattr(published, key))
assert not set(own["core"].config()) - {*vars(CoreEvalConfig()), "llm_dtype"}
assert own["autointerp"].text == AutoInterpEvalConfig().dataset_name
assert own["core"].text == CoreEvalConfig().dataset
"""


def test_the_defaults_are_saebenchs_own():
    ran = other_python(DEFAULTS)
    assert ran.returncode == 0, ran.stderr
