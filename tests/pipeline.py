"""A whole small world for tests: a tiny random language model and a few documents, on disk as users have them."""

from __future__ import annotations

import hashlib
import json
import random
import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerFast

WORDS = tuple(dict.fromkeys(re.findall(r"[a-z]{4,}", Path(__file__).read_text())))[:40]  # any words will do: its own


def save_model(folder: Path, config: PretrainedConfig) -> Path:
    """A random model of this configuration, with a word-level tokenizer, as a local hub folder."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    vocabulary = {word: i for i, word in enumerate(["<bos>", "<eos>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )  # fmt: skip
    fast.save_pretrained(folder)
    return folder


def documents(n: int, seed: int = 0) -> list[str]:
    """Sentences of random length: every document differs from the others."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(20, 60))) for _ in range(n)]


def save_jsonl(path: Path, n: int) -> Path:
    """Documents in the Pile's form."""
    lines = [json.dumps({"text": text, "meta": {"pile_set_name": "Pile-CC"}}) for text in documents(n)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def add_to_snapshot(snapshot: Path, file: Path) -> None:
    """A file as the hub's cache has it: a link to a blob named by its digest, git's own for small files."""
    content = file.read_bytes()
    small = file.suffix != ".safetensors"
    digest = hashlib.sha1(b"blob %d\0" % len(content) + content) if small else hashlib.sha256(content)
    blob = snapshot.parent.parent / "blobs" / digest.hexdigest()
    for folder in (snapshot, blob.parent):
        folder.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)


def train_all(*words: str) -> bool:
    """Train the jobs of a sweep as `saemd train -m` does, less Hydra's own sweep and the report of the whole.

    Returns whether a job failed. Tests of what jobs do use it: Hydra composes each job three times.
    """
    from saemd.composition import compose_all
    from saemd.jobs import train_tasks
    from saemd.preflight import check_jobs

    configs = compose_all(["-m", *words])
    unfinished = [config for config, metrics in zip(configs, check_jobs(configs), strict=True) if not metrics]
    return train_tasks(unfinished, None)


def weights(run: Path) -> dict[str, torch.Tensor]:
    """A run's saved parameters by name."""
    return load_file(run / "sae_weights.safetensors")


def same(a: Path, b: Path) -> bool:
    """Whether two runs ended in the same weights, bit for bit."""
    return all(torch.equal(value, weights(b)[name]) for name, value in weights(a).items())
