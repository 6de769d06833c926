"""SAEBench's own functions against the faster ones that replace them. Needs the environment of `make saebench`."""

from __future__ import annotations

from tests.quality.saebench import world as tiny
from tests.quality.saebench.real import NEEDS_SAEBENCH, World, other_python

pytestmark = NEEDS_SAEBENCH

COMPARED = """
import sys, torch
from pathlib import Path
from saemd.quality.saebench.worker import adapter, fast, last_tokens, models, residual
from saemd.quality.saebench.evaluations.absorption import first_letters
from sae_probes import generate_model_activations
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info
from sae_bench.evals.scr_and_tpp.main import ablated_precomputed_activations as plain_ablated
from sae_bench.sae_bench_utils import activation_collection, dataset_utils

folder, weights, layer, out = sys.argv[1:]
prepared = models.prepare(Path(folder), Path(out) / "prepared")
model = models.hooked(prepared, "gemma-2-2b", "cpu", torch.float32)
sae = adapter.load(Path(weights), "gemma-2-2b", int(layer), model.cfg.d_model, "cpu", torch.float32)
words = [model.tokenizer.decode(i) for i in range(100, 400)]
texts = [" ".join(words[(7 * i + j) % 300] for j in range(2 + i % 9)) for i in range(20)]
data = {"one": texts[:8] + texts[:3], "two": texts[4:], "three": texts[::-1]}
tokenized = dataset_utils.tokenize_data_dictionary(data, model.tokenizer, 16, "cpu")
asked = (tokenized, model, 4, int(layer), sae.cfg.hook_name, True)
passes = residual.residual(model, int(layer), prepared)
plain, soon = activation_collection.get_all_llm_activations(*asked), fast.all_llm_activations(passes, *asked)
assert list(plain) == list(soon)
for name, x in plain.items():
    assert (x == 0).all(-1).any() and not (x == 0).all()
    torch.testing.assert_close(soon[name], x, atol=1e-4, rtol=1e-4)

ablated = fast.Ablated()
draw = torch.Generator().manual_seed(0)
for name in ("one", "two", "one", "three", "two"):
    for share in (0.0, 0.1, 0.9):
        chosen = torch.rand(sae.W_dec.shape[0], generator=draw) < share
        expected = plain_ablated(plain[name], sae, chosen, 3)
        torch.testing.assert_close(ablated(plain[name], sae, chosen, 3), expected, atol=1e-4, rtol=1e-4)
        unchanged = plain[name].sum(1) / (plain[name].sum(2) != 0).sum(1)[:, None]
        assert share == 0 or (expected - unchanged).abs().max() > 0.01

prompts = [" ".join(words[i : i + 8]) for i in range(6)]
seen = dict(names_filter=[sae.cfg.hook_name])
whole = model.run_with_cache(prompts, **seen)[1][sae.cfg.hook_name]
letters = first_letters(model, int(layer), -6)
assert first_letters(model, int(layer), -6) is letters
for _ in range(2):
    torch.testing.assert_close(letters.run_with_cache(prompts, **seen)[1][sae.cfg.hook_name][:, -6, :], whole[:, -6, :])
assert letters.cfg is model.cfg and letters.to_tokens("a b").tolist() == model.to_tokens("a b").tolist()

padded = model.tokenizer(texts, padding=True, return_tensors="pt")
asked = dict(names_filter=[sae.cfg.hook_name], stop_at_layer=int(layer) + 1)
kept = padded["attention_mask"].bool()
whole = model.run_with_cache(padded["input_ids"], **asked)[1][sae.cfg.hook_name]
for _ in range(2):
    torch.testing.assert_close(passes(padded["input_ids"])[kept], whole[kept], atol=1e-4, rtol=1e-4)
assert not kept.all() and residual.residual(model, int(layer), prepared) is passes

options = dict(batch_size=4, max_seq_len=9, hook_names=[sae.cfg.hook_name], max_layer=None, device="cpu")
plain = generate_model_activations._process_activations(model=model, texts=texts, **options)[sae.cfg.hook_name]
last_tokens.MOST_TOKENS, last_tokens.ROOM, passed = 9, 36, []
assert max(len(ids) for ids in model.tokenizer(texts)["input_ids"]) > 9
counted = lambda tokens: passed.extend(tokens) or passes(tokens)
kept = last_tokens.LastTokens(model, counted)
for some in (slice(0, 12), slice(8, 20), slice(3, 5)):
    soon = kept.of(texts[some] + texts[:1], "texts")
    torch.testing.assert_close(soon, torch.cat([plain[some], plain[:1]]), atol=1e-4, rtol=1e-4)
assert len(passed) == len(set(texts)) == 20  # each once
last_tokens.MOST_BYTES = 0
forgetful = last_tokens.LastTokens(model, counted)
for _ in range(2):
    torch.testing.assert_close(forgetful.of(texts[:2], "texts"), plain[:2], atol=1e-4, rtol=1e-4)
assert len(passed) == 24

seen, threads = [], lambda: {pool["num_threads"] for pool in threadpool_info()}
torch.set_num_threads(2)
plain_fit = LogisticRegression.fit
def watched(self, *data):
    seen.append(threads())
    return plain_fit(self, *data)
LogisticRegression.fit = watched
rows, labels = torch.randn(90, 8, generator=draw).numpy(), [i % 2 for i in range(90)]
before = threads()
expected = LogisticRegression().fit(rows, labels).coef_
with fast.fits_on_one_thread():
    found = LogisticRegression().fit(rows, labels).coef_
assert 2 in before and seen == [before, {1}] and threads() == before and LogisticRegression.fit is watched
assert abs(found - expected).max() < 1e-4
"""


def test_the_faster_functions_give_what_saebenchs_own_give(world: World, tmp_path):
    ran = other_python(COMPARED, world.bench.lm_config.name, world.run.weights, tiny.LAYER, tmp_path)
    assert ran.returncode == 0, ran.stderr
