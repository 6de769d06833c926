"""RAVEL's hooks on a Llama, whose decoder layers return a tensor where SAEBench expects a tuple."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from sae_bench.sae_bench_utils import activation_collection
from torch import nn


class TupleLayer:
    """A decoder layer whose hooks get a tuple: RAVEL's hooks index `outputs[0]`."""

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer

    def register_forward_hook(self, hook: Any) -> Any:
        def on_tuple(module: nn.Module, inputs: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return hook(module, inputs, output)
            changed = hook(module, inputs, (output,))
            return None if changed is None else changed[0]

        return self._layer.register_forward_hook(on_tuple)


@contextmanager
def layers_that_return_tuples() -> Iterator[None]:
    """Within, SAEBench gets `TupleLayer`s. It knows the layers of Gemma-2; those of a Llama have the same path."""

    def get_module(model: Any, layer: int) -> Any:
        return TupleLayer(model.model.layers[layer])

    with patch.multiple(activation_collection, get_module=get_module):
        yield
