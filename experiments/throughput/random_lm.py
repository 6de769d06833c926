"""A random language model of SmolLM2's shape and random text, for benchmarks where neither can be fetched.

    python experiments/throughput/random_lm.py out=<folder> [size=smollm2|tiny]

Writes <folder>/lm (`lm=hf lm.name=<folder>/lm`) and <folder>/text.jsonl (`corpus=files`). Its activations have no
features to be found; what takes time in harvest, training and comparison is there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = [f"w{i}" for i in range(4000)]
SIZES: dict[str, dict[str, Any]] = {
    "smollm2": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 13, "num_attention_heads": 9,
                "num_key_value_heads": 3},
    "tiny": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
             "num_key_value_heads": 2},
}  # fmt: skip
TOKENS = {"smollm2": 1_300_000, "tiny": 40_000}


def main(words: list[str]) -> None:
    given = dict(word.split("=", 1) for word in words)
    out, size = Path(given["out"]), given.get("size", "smollm2")
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>").save_pretrained(out / "lm")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(vocabulary), **SIZES[size])).save_pretrained(out / "lm")
    draw, length = np.random.default_rng(0), 500
    with open(out / "text.jsonl", "w") as file:
        for _ in range(TOKENS[size] // length):
            file.write(json.dumps({"text": " ".join(draw.choice(WORDS, length))}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
