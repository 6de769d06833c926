"""The tokenised training text on disk, so that contexts can be read in any order: 4 bytes a token.

A token whose activation is not wanted (BOS, EOS, and what lies behind the last token asked for) is stored as `~id`.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from saemd.activations.disk.manifest import Origin
from saemd.activations.harvest.groups import Context
from saemd.activations.harvest.kept import without_context
from saemd.activations.sizes import human
from saemd.errors import UserError, bad_value
from saemd.files import check_writable, one_line, read_json, write_json
from saemd.lm.files import label
from saemd.once import made_once
from saemd.packages import sha256_of
from saemd.progress import bar

FILE, ABOUT = "contexts.bin", "about.json"
BYTES = 4  # of one token
_HEADROOM = 1.05  # of free disk over what the kept tokens take: for BOS and EOS


class ContextStore:
    """Contexts of one length. `tokens` counts those whose activations are wanted."""

    def __init__(self, folder: Path) -> None:
        """Raises `UserError` for files that are damaged."""
        self.path = folder / FILE
        try:
            about = read_json(folder / ABOUT, "delete this folder")
            n, length, self.tokens = (int(about[key]) for key in ("contexts", "context_length", "tokens"))
            if self.path.stat().st_size != BYTES * n * length:
                raise ValueError(f"{FILE} has not {n} contexts of {length} tokens")
            if about.get("sha256", digest := sha256_of(self.path)) != digest:  # earlier versions wrote none
                raise ValueError(f"{FILE} differs from its checksum")
            self._codes_CT = np.memmap(self.path, dtype="<i4", mode="r", shape=(n, length))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise UserError(f"{folder}: damaged tokenised text ({one_line(error)}); delete this folder") from error

    def __len__(self) -> int:
        return len(self._codes_CT)

    def read(self, numbers_B: np.ndarray) -> tuple[Tensor, Tensor]:
        """`input_ids` int64 [B, T] and `keep` bool [B, T] of these contexts."""
        codes_BT = torch.from_numpy(self._codes_CT[numbers_B].astype(np.int64))
        keep_BT = codes_BT >= 0
        return torch.where(keep_BT, codes_BT, ~codes_BT), keep_BT


def open_contexts(origin: Origin, cache_root: Path, contexts: Callable[[], Iterator[Context]]) -> ContextStore:
    """The first training contexts of `origin`, with `origin.tokens` kept tokens, or all there are; written once.

    Raises `UserError` for too little disk, and for a corpus without a whole context.
    """
    deciding = [origin.lm_fingerprint, origin.corpus_fingerprint, origin.context_length, origin.tokens]
    deciding += [origin.part] if origin.part else []
    fingerprint = hashlib.sha256(json.dumps(deciding).encode()).hexdigest()[:12]
    folder = cache_root / "contexts" / f"{label(origin.lm)}-{fingerprint}"
    if not folder.is_dir():
        check_writable(folder.parent)
        needed, free = int(_HEADROOM * BYTES * origin.tokens), shutil.disk_usage(folder.parent).free
        if free < needed:
            sizes = f"the tokenised text needs {human(needed)} and {folder.parent} has {human(free)} free"
            raise bad_value("activations.tokens", origin.tokens, f"{sizes}; use fewer tokens, or another cache_root")
    return ContextStore(made_once(folder, lambda partial: write_contexts(partial, origin, contexts())))


def write_contexts(folder: Path, origin: Origin, contexts: Iterator[Context]) -> None:
    """Write contexts until they hold `origin.tokens` kept tokens. What they hold more is marked as not kept."""
    n = tokens = 0
    with open(folder / FILE, "wb") as file, bar("tokenised text", origin.tokens, 0, "tokens") as progress:
        for ids_T, keep_T in contexts:
            keep_T = keep_T & (keep_T.cumsum(0) <= origin.tokens - tokens)
            file.write(torch.where(keep_T, ids_T, ~ids_T).numpy().astype("<i4").tobytes())
            kept = int(keep_T.sum())
            n, tokens = n + 1, tokens + kept
            progress.advance(kept)
            if tokens >= origin.tokens:
                break
    if not tokens:
        raise without_context(origin, "train", n)
    digest = sha256_of(folder / FILE)
    about = {"contexts": n, "context_length": origin.context_length, "tokens": tokens, "sha256": digest}
    write_json(folder / ABOUT, about)
