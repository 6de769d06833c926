"""Packaged texts through SAEBench's own code, on the tiny Gemma-2; and its own functions beside the faster ones.

Needs the environment that `make saebench` builds.
"""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from saemd.quality.packaged import split as on_disk
from saemd.quality.saebench import settings
from saemd.quality.saebench.scores import SAEBENCH_SCORES
from tests import saebench_world as tiny
from tests.test_quality_packaged import tar
from tests.test_saebench_worker import SMALL, World, measure, other_python, pytestmark, world  # noqa: F401

SIZES: dict[str, Any] = {"train_set_size": 64, "test_set_size": 32, "context_length": 12, "n_values": [2, 20]}
PAIRS = [["tweet", "editorial"], ["editorial", "tweet"]]
CHOSEN: dict[str, settings.SAEBenchSettings] = {
    "probing": settings.ProbingSettings(
        **SMALL, data="packaged", dataset_names=["opinion_sources", "opinion_sentiment"], probe_train_set_size=64,
        probe_test_set_size=32, context_length=12,
    ),
    "scr": settings.ScrSettings(
        **SMALL, **SIZES, data="packaged", dataset_names=["opinion_source_sentiment"],
        column1_vals_lookup={"opinion_source_sentiment": PAIRS},
    ),
    "tpp": settings.TppSettings(**SMALL, **SIZES, data="packaged", dataset_names=["opinion_sources"]),
}  # fmt: skip


@pytest.fixture
def sentences(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An archive of opinions in the tiny model's words: a source and a mood have first letters of their own."""
    draw = random.Random(0)
    files = {"movieReviewSnippets": "ab", "amazonReviewSnippets": "cd", "tweets": "ef", "nytEditorialSnippets": "gh"}

    def sentence(letters: str, mood: str) -> str:
        words = [draw.choice(tiny.INVENTED[letter]) for letter in letters * 2 + mood * 2]
        return " ".join(draw.sample(words, len(words)))

    inner = {
        f"hutto_ICWSM_2014/{name}_GroundTruth.txt": "".join(
            f"{i}\t{rating}\t{sentence(letters, mood)}\n"
            for i in range(100) for rating, mood in ((-2, "x"), (2, "y"))
        )
        for name, letters in files.items()
    }  # fmt: skip
    archive = tmp_path / "vader.tar.gz"
    archive.write_bytes(tar({"v/hutto_ICWSM_2014.tar.gz": tar({n: t.encode() for n, t in inner.items()})}))
    monkeypatch.setattr(on_disk, "fetch_package", lambda package, cache_root: archive)


@pytest.mark.parametrize("score", CHOSEN)
def test_saebench_measures_on_packaged_texts_under_their_own_names(world: World, sentences, score):  # noqa: F811
    for outcome in measure(world, score, CHOSEN[score]):
        assert outcome.status == "done", outcome.reason
        (file,) = outcome.details["results"]
        result = json.loads(Path(file).read_text())
        names = {piece["dataset_name"] for piece in result["eval_result_details"]}
        assert all(name.startswith("opinion_") for name in names)
        assert "LabHC" not in Path(file).read_text()
        assert outcome.repetitions == len(names) == (1 if score == "tpp" else 2)
        assert outcome.data["packaged"].keys() == set(CHOSEN[score].dataset_names)  # type: ignore[attr-defined]


ABSORPTION = settings.AbsorptionSettings(**SMALL, max_words=200, min_GT_probe_f1=0.0, min_feats_for_eval=1)


@pytest.mark.parametrize("score", [*CHOSEN, "absorption"])
def test_an_sae_has_its_score_whatever_was_measured_before_it(world: World, sentences, tmp_path, score):  # noqa: F811
    """Alone, behind another SAE, and again with what was kept: the probes' texts are the same ones."""
    twin = replace(world.run, folder=tmp_path / "twin", seed=7)
    shutil.rmtree(world.bench.folder("saebench"), ignore_errors=True)
    chosen = {**CHOSEN, "absorption": ABSORPTION}[score]
    measured = SAEBENCH_SCORES[f"saebench_{score}"].measure
    values = [
        outcome.values
        for subjects in ([world.run, world.scope, twin], [twin])
        for subject, outcome in measured(world.bench, chosen, subjects)
        if subject is not world.scope
    ]
    assert len(values) == 3
    assert values[0] == values[1] == values[2]


def test_a_size_that_is_not_there_fails_that_score_alone(world: World, sentences):  # noqa: F811
    too_large = replace(CHOSEN["tpp"], train_set_size=4000)
    with pytest.raises(ValueError, match=r"^train_set_size=4000: at most"):
        list(SAEBENCH_SCORES["saebench_tpp"].measure(world.bench, too_large, [world.run]))


COMPARED = """
import sys, torch
from pathlib import Path
from saemd.quality.saebench import adapter, fast, last_tokens, models, one_thread, residual
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
letters = fast.first_letters(model, int(layer), -6)
assert fast.first_letters(model, int(layer), -6) is letters
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
with one_thread.fits_on_one_thread():
    found = LogisticRegression().fit(rows, labels).coef_
assert 2 in before and seen == [before, {1}] and threads() == before and LogisticRegression.fit is watched
assert abs(found - expected).max() < 1e-4
"""


def test_the_faster_functions_give_what_saebenchs_own_give(world: World, tmp_path):  # noqa: F811
    ran = other_python(COMPARED, world.bench.lm_config.name, world.run.weights, tiny.LAYER, tmp_path)
    assert ran.returncode == 0, ran.stderr
