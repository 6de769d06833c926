"""The activations that sae-probes asks for, those at each text's last token. Imported in SAEBench's environment alone.

All 113 data sets take an hour and more of passes. They depend on the model and its precision alone, so they are kept
apart from what is kept of an evaluation's settings: another list of data sets, other k, or probes on the whole layer
pass no text again. Shapes: B texts, L tokens of a text, D d_in.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import difflib
import hashlib
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from sae_probes.constants import DATA_PATH
from sae_probes.utils_data import get_numbered_binary_tags
from torch import Tensor
from tqdm import tqdm
from transformer_lens import HookedTransformer

from saemd.errors import bad_value
from saemd.files import replacing, save_torch
from saemd.quality.saebench.batches import batches
from saemd.quality.saebench.replaced import replaced
from saemd.quality.saebench.residual import Residual

MOST_TOKENS = 1024  # of a text, its last ones, as sae-probes has it
ROOM = 32 * 128  # tokens that pass at once
MOST_BYTES = 1 << 30  # of activations in memory: those of all sets take half of it with 576 dimensions
# Modules; functions of the package have the same names.
ON_LATENTS, ON_LAYER = (importlib.import_module(f"sae_probes.run_{name}") for name in ("sae_evals", "baselines"))


class LastTokens:
    """Each text's activation at its last token, kept in sae-probes' own files, one for each data set.

    Stands in for its `ensure_dataset_activations`, up to the order of sums: texts of one length together, short ones
    more at once. Half of the tokens of its 113 data sets are of texts that another set has too (one set a class of the
    same news): they pass once.
    """

    def __init__(self, model: HookedTransformer, residual: Residual) -> None:
        self._model, self._residual = model, residual
        self._known: dict[bytes, Tensor] = {}  # a text's digest → [D]

    def ensure(
        self, model_name: str, dataset_short_names: list[str], hook_names: list[str], model_cache_path: Path, **_: Any
    ) -> None:
        """As `ensure_dataset_activations`. Raises `UserError` where sae-probes has no data set of a name."""
        assert hook_names == [self._residual.hook_name]
        folder = model_cache_path / f"model_activations_{model_name}"
        places = {name: folder / f"{name}_{hook_names[0]}.pt" for name in dataset_short_names}
        files = {name: _file(name) for name, place in places.items() if not place.exists()}
        if not files:
            return
        for name, file in tqdm(files.items(), desc="sae-probes' data sets"):
            texts = pd.read_csv(file, compression="zstd")["prompt"].tolist()
            with replacing(places[name]) as aside:
                save_torch(self.of(texts, name), aside)

    @torch.inference_mode()
    def of(self, texts: list[str], name: str) -> Tensor:
        """[B, D] in float32, whatever the model's precision, as sae-probes goes on in numpy; `name` is for the bar."""
        keys = [hashlib.sha256(text.encode()).digest() for text in texts]
        fresh = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        known = self._known | dict(zip(fresh, self._passed(list(fresh.values()), name), strict=True))
        if len(known) * self._model.cfg.d_model * 4 <= MOST_BYTES:
            self._known = known
        return torch.stack([known[key] for key in keys])

    def _passed(self, texts: list[str], name: str) -> Tensor:
        tokenizer: Any = self._model.tokenizer
        tokenizer.truncation_side = "left"
        ids = [tokenizer(text, truncation=True, max_length=MOST_TOKENS)["input_ids"] for text in texts]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        lengths = [len(ids[i]) for i in order]
        found_BD = torch.empty(len(ids), self._model.cfg.d_model)
        for start, end in tqdm(batches(lengths, ROOM), desc=name[:30], leave=False):
            padded_BL = torch.zeros(end - start, lengths[end - 1], dtype=torch.long)
            for row, i in enumerate(order[start:end]):
                padded_BL[row, : len(ids[i])] = torch.tensor(ids[i])
            x_BLD = self._residual(padded_BL.to(self._model.cfg.device))
            last_B = torch.tensor(lengths[start:end]) - 1
            found_BD[order[start:end]] = x_BLD[torch.arange(end - start), last_B].float().cpu()
        return found_BD


@contextmanager
def last_tokens(model: HookedTransformer, residual: Residual) -> Iterator[None]:
    """Within, sae-probes gets its activations from `LastTokens`."""
    ensure = LastTokens(model, residual).ensure
    with (
        replaced(ON_LATENTS, ensure_dataset_activations=ensure),
        replaced(ON_LAYER, ensure_dataset_activations=ensure),
    ):
        yield


@contextmanager
def probes_shown(data_sets: int) -> Iterator[None]:
    """Within, one bar of an SAE's data sets in place of sae-probes' own, a bar for each."""
    probe = ON_LATENTS.run_sae_eval
    with tqdm(total=data_sets, desc="probes of latents, data sets") as bar:

        def shown(**arguments: Any) -> bool:
            done = probe(**arguments)
            bar.update()
            return done

        with replaced(ON_LATENTS, run_sae_eval=shown, tqdm=iter):
            yield


def _file(name: str) -> Path:
    names = get_numbered_binary_tags()
    if name not in names:
        close = ", ".join(difflib.get_close_matches(name, names, 3, 0))
        raise bad_value("dataset_names", name, f"sae-probes has {len(names)} data sets; near this name: {close}")
    return DATA_PATH / "cleaned_data" / f"{name}.csv.zst"
