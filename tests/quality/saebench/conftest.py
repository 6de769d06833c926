"""The tiny world of the tests that run SAEBench itself."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from saemd.lm.load import residual_stream
from saemd.quality.bench import Bench
from saemd.quality.saebench import gemma_scope
from saemd.quality.score import Subject
from saemd.sae import load_sae
from tests.quality.saebench import world as tiny
from tests.quality.saebench.real import World


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
