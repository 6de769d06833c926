"""Tiny random models: one of every family, and one as a saved folder."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
)

SIZE: dict[str, Any] = dict(
    vocab_size=64, hidden_size=16, intermediate_size=40, num_hidden_layers=3, num_attention_heads=2,
    num_key_value_heads=1, max_position_embeddings=64, bos_token_id=0, eos_token_id=1, pad_token_id=2,
)  # fmt: skip
CONFIGS = [
    LlamaConfig(**SIZE, mlp_bias=True),
    MistralConfig(**SIZE),
    Qwen2Config(**SIZE),
    Qwen3Config(**SIZE, head_dim=8),
    Phi3Config(**SIZE),
    GemmaConfig(**SIZE, head_dim=8),
    Gemma2Config(**SIZE, head_dim=8),
    Gemma3TextConfig(**SIZE, head_dim=8),
    Gemma3Config(
        text_config=dict(**SIZE, head_dim=8), mm_tokens_per_image=1,
        vision_config=dict(hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
                           image_size=28, patch_size=14),
    ),
    Olmo2Config(**SIZE),
    GPT2Config(vocab_size=64, n_embd=16, n_layer=3, n_head=2, n_inner=40, n_positions=64),
    GPTNeoXConfig(**{**SIZE, "num_key_value_heads": None}),
    GPTNeoXConfig(**{**SIZE, "num_key_value_heads": None}, use_parallel_residual=False),
    OPTConfig(vocab_size=64, hidden_size=16, ffn_dim=40, num_hidden_layers=3, num_attention_heads=2,
              max_position_embeddings=64, word_embed_proj_dim=16),
    PhiConfig(**SIZE),
]  # fmt: skip
IDS = [f"{config.model_type}{i}" for i, config in enumerate(CONFIGS)]
LAYER = 1


def tiny(config) -> Any:
    """Random weights, the norms' and biases' included, so that none is trivially 1 or 0."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def tokens() -> torch.Tensor:
    return torch.randint(3, 64, (2, 9), generator=torch.Generator().manual_seed(1))


FOLDER = LlamaConfig(**{**SIZE, "num_key_value_heads": 2})  # what the fixture `folder` holds
WEIGHT = "model.layers.1.mlp.down_proj.weight"
