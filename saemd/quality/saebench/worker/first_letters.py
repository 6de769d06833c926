"""A HookedTransformer as Absorption asks it, sooner: for one position of one layer, and the same prompts for every SAE.

`tests/quality/saebench/test_fast.py` compares it with the HookedTransformer. Shapes: B texts, D d_in.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import functools
from typing import Any

from torch import Tensor
from transformer_lens import HookedTransformer


class FirstLetters:
    """Goes no further than the layer, as the logits are dropped, and keeps the activations of prompts passed before."""

    def __init__(self, model: HookedTransformer, layer: int, position: int) -> None:
        assert position < 0
        self._model, self._layer, self._position = model, layer, position
        self._kept: dict[tuple[str, ...], dict[str, Tensor]] = {}  # prompts → hook → [B, D]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def run_with_cache(self, prompts: list[str], names_filter: list[str]) -> tuple[None, dict[str, Tensor]]:
        """The activations [B, -position, D], of which the first, the one that is read, stands at all positions."""
        key = tuple(prompts)
        if key not in self._kept:
            stop = self._layer + 1
            _, cache = self._model.run_with_cache(prompts, names_filter=names_filter, stop_at_layer=stop)
            self._kept[key] = {name: cache[name][:, self._position].clone() for name in names_filter}
        return None, {name: x_BD[:, None].expand(-1, -self._position, -1) for name, x_BD in self._kept[key].items()}


@functools.lru_cache(maxsize=1)
def first_letters(model: HookedTransformer, layer: int, position: int) -> FirstLetters:
    """The same one for all SAEs of a job."""
    return FirstLetters(model, layer, position)
