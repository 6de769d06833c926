"""A tiny language model with text, and the commands that are interrupted: what a user has, in small."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

WORDS = [f"{a}{b}" for a in ("re", "con", "de", "pro", "in", "ex") for b in ("form", "duce", "port", "tend", "cede")]


@dataclass(frozen=True)
class Scenario:
    """A command, the commands before it that make what it starts from, and what of that is taken away again."""

    command: list[str]
    before: list[list[str]]
    removed: str = ""


def make_inputs(folder: Path, documents: int = 600) -> None:
    """A random language model and its text below `folder`."""
    config = LlamaConfig(
        vocab_size=len(WORDS) + 3, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    vocabulary = {word: i for i, word in enumerate(["<bos>", "<eos>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder / "model")
    draw = random.Random(0)
    lines = [json.dumps({"text": " ".join(draw.choices(WORDS, k=draw.randint(20, 60)))}) for _ in range(documents)]
    (folder / "text.jsonl").write_text("\n".join(lines) + "\n")


def world_words(inputs: Path, work: Path) -> list[str]:
    """The words that every command has: model, text, sizes, and folders below `work`."""
    return [
        "lm=hf", f"lm.name={inputs / 'model'}", "corpus=files", f"corpus.path={inputs / 'text.jsonl'}", "layer=1",
        "activations.tokens=6000", "activations.heldout_tokens=600", "activations.context_length=32",
        "activations.shard_tokens=512", "batch_size=64", "l0=4", "logger=none", "accelerator=cpu", "threads=1",
        f"cache_root={work / 'cache'}", f"run_root={work / 'runs'}",
    ]  # fmt: skip


def scenarios(inputs: Path, work: Path) -> dict[str, Scenario]:
    """Each below `work`, which is empty when its first command starts."""
    world = world_words(inputs, work)
    short = [*world, "tokens=8192", "checkpoint_minutes=0.0005"]
    cache = ["cache", *world]
    runs = ["train", "-m", *short, "init=uniform", "seed=0,1,2"]
    score = [f"run_root={work / 'runs'}", f"cache_root={work / 'cache'}", "logger=none", "scores=core", "threads=1"]
    core = ["core.tokens=1000", "core.resamples=10"]
    return {
        "harvest": Scenario(cache, []),
        "training": Scenario(["train", *short, "init=uniform", "tokens=16384", "snapshots=[4096]"], [cache]),
        "stack": Scenario(["train", "-m", *short, "init=uniform", "seed=0,1,2,3", "together=4"], [cache]),
        "sweep": Scenario(["train", "-m", *short, "init=mirror,uniform", "seed=0,1"], [cache]),
        "comparison": Scenario(["stability", f"run_root={work / 'runs'}"], [cache, runs], removed="runs/stability"),
        "evaluation": Scenario(["evaluate", *score, *core], [cache, runs]),
    }
