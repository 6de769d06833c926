"""Ask a language model many short prompts: does it continue with this answer, and which letter does it choose?

Every prompt begins with BOS where the tokenizer has one, as the contexts of training do. Shape suffixes: B prompts in a
batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from saemd.lm.load import LM
from saemd.lm.patch import final_states, logits

AT_ONCE = 32


@torch.inference_mode()
def greedy(lm: LM, asked: list[tuple[str, str]]) -> list[bool]:
    """For each (prompt, answer): is the answer what greedy decoding gives? One pass instead of a token at a time."""
    right: dict[int, bool] = {}
    rows = [(_ids(lm, prompt), lm.tokenizer.encode(answer, add_special_tokens=False)) for prompt, answer in asked]
    for places, states_BTD in _batches(lm, [prompt + answer for prompt, answer in rows]):
        for row, place in enumerate(places):
            prompt, answer = rows[place]
            states = states_BTD[row, len(prompt) - 1 : len(prompt) - 1 + len(answer)]
            right[place] = logits(lm.model, states).argmax(-1).tolist() == answer
    return [right[place] for place in range(len(asked))]


@torch.inference_mode()
def chosen(lm: LM, prompts: list[str], choices: list[list[str]]) -> list[int]:
    """Which choice each prompt is continued with: the one of the likeliest first token, of any of its spellings."""
    tokens = [[lm.tokenizer.encode(text, add_special_tokens=False)[0] for text in spellings] for spellings in choices]
    found: dict[int, int] = {}
    rows = [_ids(lm, prompt) for prompt in prompts]
    for places, states_BTD in _batches(lm, rows):
        last = torch.stack([states_BTD[row, len(rows[place]) - 1] for row, place in enumerate(places)])
        scores = logits(lm.model, last).float()
        best = torch.stack([scores[:, ids].amax(1) for ids in tokens], 1).argmax(1)
        found.update(zip(places, best.tolist(), strict=True))
    return [found[place] for place in range(len(prompts))]


def _ids(lm: LM, prompt: str) -> list[int]:
    bos = lm.tokenizer.bos_token_id
    return [*([] if bos is None else [bos]), *lm.tokenizer.encode(prompt, add_special_tokens=False)]


def _batches(lm: LM, rows: list[list[int]]) -> Iterator[tuple[list[int], Tensor]]:
    """Places in `rows` and final states [B, T, d], similar lengths together; padded behind, where nothing looks."""
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    for start in range(0, len(order), AT_ONCE):
        places = order[start : start + AT_ONCE]
        longest = max(len(rows[place]) for place in places)
        ids_BT = torch.tensor([rows[place] + [0] * (longest - len(rows[place])) for place in places])
        yield places, final_states(lm.model, ids_BT.to(lm.model.device))  # type: ignore[arg-type]
