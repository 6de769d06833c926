"""A tiny language model that has learnt its text, so that there is loss to recover; and SAEs of known quality."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoModelForCausalLM, LlamaConfig

from saemd.activations.harvest import open as harvest
from saemd.quality.bench import Bench
from saemd.sae import JumpReLUSAE, save_sae
from tests.pipeline import WORDS, save_model
from tests.stability_fakes import fake_run

D, CONTEXT, LAYER = 16, 32, 1


def learnt_world(root: Path) -> dict[str, Any]:
    """`config.yaml`'s part that says what a run was trained on: model and text, saved below `root`."""
    config = LlamaConfig(
        vocab_size=len(WORDS) + 3, hidden_size=D, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = save_model(root / "model", config)
    draw = random.Random(0)
    texts = []
    for _ in range(400):  # each word is followed by the next one of WORDS: what a language model can learn
        start = draw.randrange(len(WORDS))
        texts.append(" ".join(WORDS[(start + i) % len(WORDS)] for i in range(draw.randint(20, 40))))
    (root / "text").mkdir()
    (root / "text" / "documents.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts) + "\n")
    world = {
        "lm": {"name": str(model)},
        "corpus": {"name": "files", "path": str(root / "text"), "heldout_fraction": 0.2},
        "activations": {"tokens": 2000, "heldout_tokens": 500, "context_length": CONTEXT, "lm_batch_tokens": 128},
        "layer": LAYER,
    }
    _teach(model, Bench(world, root / "cache"))
    return world


def _teach(folder: Path, bench: Bench) -> None:
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    ids = torch.stack([context.input_ids for context in bench.contexts("tokens", 32 * CONTEXT)])
    for _ in range(120):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)


def exact_sae() -> JumpReLUSAE:
    """Two latents per dimension, [I, −I] both ways, θ = 0: x̂ = x."""
    sae = JumpReLUSAE(D, 2 * D)
    both = torch.cat([torch.eye(D), -torch.eye(D)])
    with torch.no_grad():
        sae.W_enc.copy_(both.T)
        sae.W_dec.copy_(both)
        sae.threshold.zero_()
    return sae


def zero_sae() -> JumpReLUSAE:
    """Nothing is ever active and the bias is 0: x̂ = 0."""
    sae = exact_sae()
    with torch.no_grad():
        sae.threshold.fill_(1e9)
    return sae


def rough_sae(seed: int, noise: float = 0.3) -> JumpReLUSAE:
    """The exact one with noise in its decoder."""
    sae = exact_sae()
    with torch.no_grad():
        sae.W_dec.add_(noise * torch.randn(2 * D, D, generator=torch.Generator().manual_seed(seed)))
    return sae


def add_run(run_root: Path, world: dict[str, Any], sae: JumpReLUSAE, init: str, l0: int, seed: int) -> Path:
    """A finished run whose SAE is `sae`."""
    run = fake_run(run_root, init, l0, seed, start=torch.eye(D).repeat(2, 1), config=world)
    save_sae(sae, run)
    saved = yaml.safe_load((run / "config.yaml").read_text())
    bench = Bench(saved["config"], run_root)
    origin = harvest.describe(bench.lm_config, LAYER, bench.corpus, bench.activations, run_root)
    saved["cache_fingerprint"] = origin.fingerprint
    (run / "config.yaml").write_text(yaml.safe_dump(saved))
    return run
