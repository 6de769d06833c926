"""Ask a language model many short prompts: does it continue with this answer, and which letter does it choose?

Every prompt begins with BOS where the tokenizer has one, as the contexts of training do. Shape suffixes: B prompts in a
batch, T tokens.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from saemd.lm.load import LM
from saemd.lm.patch import final_states, logits

BATCH = 32  # prompts


@torch.inference_mode()
def greedy(lm: LM, questions: list[tuple[str, str]]) -> list[bool]:
    """For each (prompt, answer): does greedy decoding give the answer? One pass instead of a token at a time."""
    right: dict[int, bool] = {}
    rows = [(_ids(lm, prompt), lm.tokenizer.encode(answer, add_special_tokens=False)) for prompt, answer in questions]
    for indices, states_BTD in _batches(lm, [prompt + answer for prompt, answer in rows]):
        for row, i in enumerate(indices):
            prompt, answer = rows[i]
            states = states_BTD[row, len(prompt) - 1 : len(prompt) - 1 + len(answer)]
            right[i] = logits(lm.model, states).argmax(-1).tolist() == answer
    return [right[i] for i in range(len(questions))]


@torch.inference_mode()
def chosen(lm: LM, prompts: list[str], choices: list[list[str]]) -> list[int]:
    """The index of the choice that continues each prompt: one of its spellings has the likeliest first token."""
    tokens = [[lm.tokenizer.encode(text, add_special_tokens=False)[0] for text in spellings] for spellings in choices]
    choice_of: dict[int, int] = {}
    rows = [_ids(lm, prompt) for prompt in prompts]
    for indices, states_BTD in _batches(lm, rows):
        last = torch.stack([states_BTD[row, len(rows[i]) - 1] for row, i in enumerate(indices)])
        scores = logits(lm.model, last).float()
        best = torch.stack([scores[:, ids].amax(1) for ids in tokens], 1).argmax(1)
        choice_of.update(zip(indices, best.tolist(), strict=True))
    return [choice_of[i] for i in range(len(prompts))]


def _ids(lm: LM, prompt: str) -> list[int]:
    bos = lm.tokenizer.bos_token_id
    return [*([] if bos is None else [bos]), *lm.tokenizer.encode(prompt, add_special_tokens=False)]


def _batches(lm: LM, rows: list[list[int]]) -> Iterator[tuple[list[int], Tensor]]:
    """Indices of `rows` and their final states [B, T, d], similar lengths together. Padding follows a row's end."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), BATCH):
        indices = order[start : start + BATCH]
        longest = max(len(rows[i]) for i in indices)
        ids_BT = torch.tensor([rows[i] + [0] * (longest - len(rows[i])) for i in indices])
        yield indices, final_states(lm.model, ids_BT.to(lm.model.device))  # type: ignore[arg-type]
