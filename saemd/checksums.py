"""Checksums inside files, so that a flipped bit in a figure or a weight is noticed when the file is read.

A mapping (JSON, YAML) carries its own under the key `checksum`, as does each row of a table (a JSON list of mappings).
Tensors carry theirs in the header of their file. What earlier versions or other programs wrote has none, and is read
as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

KEY = "checksum"


class ChecksumError(ValueError):
    """Values that are not those the checksum was made of."""

    def __init__(self) -> None:
        super().__init__(f"differs from its {KEY}: it was damaged, or edited, and then its {KEY} has to be taken out")


def with_checksum(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values behind their checksum: it stands first, since YAML that was cut off is still YAML."""
    return {KEY: _of_values(values), **values}


def sealed(value: Any) -> Any:
    """A mapping with its checksum, a list with those of the mappings in it; anything else as it is."""
    if isinstance(value, list):
        return [sealed(row) if isinstance(row, dict) else row for row in value]
    return with_checksum(value) if isinstance(value, dict) else value


def without_checksum(values: Any) -> Any:
    """A mapping, or the rows of a table, as before `with_checksum`. Values without a checksum stay as they are.

    Raises `ChecksumError` where a checksum is that of other values.
    """
    if isinstance(values, list):
        return [without_checksum(row) if isinstance(row, dict) else row for row in values]
    if not isinstance(values, dict):
        return values
    if KEY not in values:
        if get_close_matches(KEY, [key for key in values if isinstance(key, str)], cutoff=0.7):
            raise ChecksumError  # flipped bits have hit the key as well
        return values
    own = {key: value for key, value in values.items() if key != KEY}
    try:
        expected = _of_values(own)
    except (TypeError, ValueError, RecursionError):  # values that no file of ours holds
        expected = None
    if values[KEY] != expected:
        raise ChecksumError
    return own


def of_tensors(tensors: Mapping[str, Tensor], about: str = "") -> str:
    """sha256 of names, types, shapes and values, and of `about`."""
    digest = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {[*tensor.shape]}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _of_values(values: Mapping[str, Any]) -> str:
    """The same however the file writes numbers and orders keys."""
    plain = json.loads(json.dumps(values))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
