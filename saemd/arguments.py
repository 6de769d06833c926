"""Checks of a command line: only known flags, and keys that the program reads, are accepted.

Hydra itself skips flags that it does not know, and `+key=value` adds keys that no code reads.
"""

import dataclasses
import difflib
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf

from saemd.errors import UserError, bad_value
from saemd.remote.urls import local_folder

_PACKAGE = Path(__file__).resolve().parent
_CARRIED = _PACKAGE / "conf"  # by a wheel; the source tree has it at its top
CONF = _CARRIED if _CARRIED.is_dir() else _PACKAGE.parent / "conf"


def overrides(arguments: list[str], flags: Collection[str] = ()) -> list[str]:
    """The arguments without `flags`, as Hydra reads them. Raises `UserError` for any other word with a dash before it.

    A value's `~` becomes the home folder. A value that Hydra's grammar cannot read, such as `a=b` or `ä`, is quoted if
    it can only be one string.
    """
    words = []
    for word in arguments:
        if not word.startswith("-"):
            words.append(_quoted(re.sub(r"(?<=[=,\[])~(?=/)", lambda _: os.path.expanduser("~"), word)))
        elif word not in flags:
            key, equals, value = word.lstrip("-").partition("=")
            remedy = f"write {key}={value if equals else '…'}" if len(key) > 1 else "write key=value"
            also = f"; the flags are {', '.join(sorted(flags))}" if flags else ""
            raise UserError(f"{word}: {remedy}{also}")
    return words


def _quoted(word: str) -> str:
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        key, equals, value = word.partition("=")
        if equals and value[:1] not in ("[", "{") and not re.search(r"[,'\"$\\]", value):
            return f"{key}='{value}'"
    return word


def refuse_unread(node: Any, prefix: str = "") -> None:
    """Raise `UserError` for a key of a composed configuration that its dataclass lacks, and for a removed key.

    Keys of plain dictionaries (`corpus.sources`, Hydra's launchers) are free.
    """
    if isinstance(node, ListConfig):
        children = {str(i): node._get_node(i) for i in range(len(node))}
    elif isinstance(node, DictConfig) and not node._is_missing() and not node._is_none():
        children = {str(key): node._get_node(key) for key in node}
        schema = OmegaConf.get_type(node)
        if schema is not None and dataclasses.is_dataclass(schema):
            known = [field.name for field in dataclasses.fields(schema)]
            for key in children:
                if key not in known:
                    raise unknown_key(f"{prefix}{key}", [f"{prefix}{name}" for name in known])
            for key in known:
                if key not in children:
                    raise UserError(f"{prefix}{key}: taken out with ~, and nothing runs without it; leave it in")
    else:
        return
    for key, child in children.items():
        refuse_unread(child, f"{prefix}{key}.")


_TO_SAE = (
    "sparsity_coefficient", "sparsity_warmup_steps", "sparsity_warmup_fraction", "threshold_lr", "bandwidth", "step_on",
    "positive_threshold", "bias",
)  # fmt: skip
MOVED = {**{f"recipe.{key}": f"sae.{key}" for key in _TO_SAE}, "init.threshold": "sae.threshold"}


def unknown_key(key: str, known: Collection[str]) -> UserError:
    """The error for a key that does not exist, with its new name or the most similar key that does."""
    if key in MOVED:
        return UserError(f"{key}: belongs to the SAE's architecture; write {MOVED[key]}")
    near = difflib.get_close_matches(key, known, n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    return UserError(f"{key}: there is no such key here{meant}; docs/keys.md and saemd/config.py list the keys")


def folder(key: str, value: str) -> str:
    """A folder that a command line names, with `~` replaced; of a URL, its local folder.

    Raises `UserError` for no name, an unknown home, and a URL that names no folder of a store.
    """
    if not value.strip():
        raise bad_value(key, repr(value), "name a folder")
    try:
        return str(local_folder(key, value))
    except RuntimeError:  # no HOME, and no such user
        raise bad_value(key, value, "there is no home folder to put in the place of ~; name the whole path") from None


def key_values(arguments: Sequence[str], known: Collection[str]) -> dict[str, str]:
    """The values by key. Raises `UserError` for unknown keys, keys without a value or with two, and flags."""
    values: dict[str, str] = {}
    listed = f"known are {', '.join(f'{name}=…' for name in known)}"
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if (bare := key.lstrip("-")) != key and bare in known:
            raise UserError(f"{argument}: write {bare}={value or '…'}")
        if key not in known or not equals:
            raise UserError(f"{argument}: {listed}")
        if not value:
            raise bad_value(key, value, "is empty; give it a value, or leave it out")
        if key in values:
            raise bad_value(key, value, f"given twice, first as {key}={values[key]}; give it once")
        values[key] = value
    return values
