"""Refuses a tokenizer whose ids its model has no embedding for."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from saemd.errors import UserError, bad_value
from saemd.lm.config import LMConfig


def refuse_ids_beyond(config: LMConfig, tokenizer: Any, embedding: nn.Module) -> None:
    """Raises `UserError` where the vocabulary, BOS or EOS has ids beyond the embedding's rows.

    Tokens that were added to the vocabulary may lie beyond, since text seldom holds them. Where it does, the model's
    forward pass raises the `UserError`, in the place of torch's index error.
    """
    weight: Any = embedding.weight
    rows = len(weight)
    beyond = {i: token for token, i in tokenizer.get_vocab().items() if i >= rows}
    if not beyond:
        return
    refused = (beyond.keys() - tokenizer.added_tokens_decoder.keys()) | (
        beyond.keys() & {tokenizer.bos_token_id, tokenizer.eos_token_id}
    )
    if refused:
        raise _beyond(config, rows, min(refused), beyond)

    def check(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if (largest := int(inputs[0].max())) >= rows:
            raise _beyond(config, rows, largest, beyond)

    embedding.register_forward_pre_hook(check)


def _beyond(config: LMConfig, rows: int, i: int, tokens: dict[int, str]) -> UserError:
    remedy = (
        f"its tokenizer gives id {i} ({tokens.get(i, 'unknown')!r}), its embedding has {rows} rows; "
        "take the tokenizer that the model was trained with, or resize_token_embeddings and save the model"
    )
    return bad_value("lm.name", config.name, remedy)
