"""Pack documents into contexts of a fixed length."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

DOCUMENTS_AT_ONCE = 256  # per call of the tokenizer, which then uses all cores


class Context(NamedTuple):
    """`input_ids` int64 [T], and `keep` bool [T]: False at special tokens, whose activations are dropped."""

    input_ids: Tensor
    keep: Tensor


def contexts(documents: Iterable[str], tokenizer: Any, context_length: int) -> Iterator[Context]:
    """Contexts of `context_length` tokens: BOS first where the tokenizer has one, EOS between two documents.

    A document that does not fit goes on in the next context. An incomplete last context is left out.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    room = context_length - (bos is not None)
    special = np.array(sorted(tokenizer.all_special_ids), dtype=np.int64)
    waiting, length = [], 0
    for tokens in _tokenised(documents, tokenizer):
        piece = tokens if eos is None else np.append(tokens, eos)
        waiting.append(piece)
        length += len(piece)
        if length < room:
            continue
        joined = np.concatenate(waiting)
        full = length // room * room
        for row in joined[:full].reshape(-1, room):
            ids = row if bos is None else np.insert(row, 0, bos)
            yield Context(torch.from_numpy(ids.copy()), torch.from_numpy(~np.isin(ids, special)))
        waiting, length = [joined[full:]], length - full


def _tokenised(documents: Iterable[str], tokenizer: Any) -> Iterator[np.ndarray]:
    stream = iter(documents)
    while batch := list(islice(stream, DOCUMENTS_AT_ONCE)):
        for ids in tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]:
            yield np.asarray(ids, dtype=np.int64)
