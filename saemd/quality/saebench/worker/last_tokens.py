"""The activations that sae-probes asks for: those at each text's last token.

The passes of all 113 data sets take more than an hour. Their activations depend on the model and its precision alone,
so they are kept in a folder that does not depend on the settings: another list of data sets, other k, or probes on the
whole layer pass no text again. Shapes: B texts, L tokens of a text, D d_in.
"""

import difflib
import hashlib
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch
from sae_probes.constants import DATA_PATH
from sae_probes.utils_data import get_numbered_binary_tags
from torch import Tensor
from tqdm import tqdm
from transformer_lens import HookedTransformer

from saemd.errors import bad_value
from saemd.files import replacing, save_torch
from saemd.quality.saebench.worker.residual import Residual, batches

MOST_TOKENS = 1024  # the last ones of a text, as in sae-probes
ROOM = 32 * 128  # tokens of a batch
MOST_BYTES = 1 << 30  # of activations in memory: those of all sets take half of it with 576 dimensions
# Modules; functions of the package have the same names.
ON_LATENTS, ON_LAYER = (importlib.import_module(f"sae_probes.run_{name}") for name in ("sae_evals", "baselines"))


class LastTokens:
    """Each text's activation at its last token, kept in sae-probes' own files, one for each data set.

    Replaces its `ensure_dataset_activations`, up to the order of sums. Texts of similar lengths pass together. Half of
    the tokens of the 113 data sets are in texts that several sets share (as one set for each class of the same news):
    they pass once.
    """

    def __init__(self, model: HookedTransformer, residual: Residual) -> None:
        self._model, self._residual = model, residual
        self._activations: dict[bytes, Tensor] = {}  # a text's digest → [D]

    def ensure(
        self, model_name: str, dataset_short_names: list[str], hook_names: list[str], model_cache_path: Path, **_: Any
    ) -> None:
        """As `ensure_dataset_activations`. Raises `UserError` where sae-probes has no data set of a name."""
        assert hook_names == [self._residual.hook_name]
        folder = model_cache_path / f"model_activations_{model_name}"
        paths = {name: folder / f"{name}_{hook_names[0]}.pt" for name in dataset_short_names}
        tables = {name: _table(name) for name, path in paths.items() if not path.exists()}
        if not tables:
            return
        for name, table in tqdm(tables.items(), desc="sae-probes' data sets"):
            texts = pd.read_csv(table, compression="zstd")["prompt"].tolist()
            with replacing(paths[name]) as partial:
                save_torch(self.of(texts, name), partial)

    @torch.inference_mode()
    def of(self, texts: list[str], name: str) -> Tensor:
        """[B, D] in float32 in any precision of the model, for sae-probes goes on in numpy; `name` is for the bar."""
        keys = [hashlib.sha256(text.encode()).digest() for text in texts]
        fresh = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._activations}
        activations = self._activations | dict(zip(fresh, self._pass(list(fresh.values()), name), strict=True))
        if len(activations) * self._model.cfg.d_model * 4 <= MOST_BYTES:
            self._activations = activations
        return torch.stack([activations[key] for key in keys])

    def _pass(self, texts: list[str], name: str) -> Tensor:
        tokenizer: Any = self._model.tokenizer
        tokenizer.truncation_side = "left"
        ids = [tokenizer(text, truncation=True, max_length=MOST_TOKENS)["input_ids"] for text in texts]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        lengths = [len(ids[i]) for i in order]
        activations_BD = torch.empty(len(ids), self._model.cfg.d_model)
        for start, end in tqdm(batches(lengths, ROOM), desc=name[:30], leave=False):
            padded_BL = torch.zeros(end - start, lengths[end - 1], dtype=torch.long)
            for row, i in enumerate(order[start:end]):
                padded_BL[row, : len(ids[i])] = torch.tensor(ids[i])
            x_BLD = self._residual(padded_BL.to(self._model.cfg.device))
            last_B = torch.tensor(lengths[start:end]) - 1
            activations_BD[order[start:end]] = x_BLD[torch.arange(end - start), last_B].float().cpu()
        return activations_BD


@contextmanager
def last_tokens(model: HookedTransformer, residual: Residual) -> Iterator[None]:
    """Within, sae-probes gets its activations from `LastTokens`."""
    ensure = LastTokens(model, residual).ensure
    with (
        patch.multiple(ON_LATENTS, ensure_dataset_activations=ensure),
        patch.multiple(ON_LAYER, ensure_dataset_activations=ensure),
    ):
        yield


@contextmanager
def one_bar(data_sets: int) -> Iterator[None]:
    """Within, a single progress bar counts an SAE's data sets; sae-probes draws one for each of them."""
    probe = ON_LATENTS.run_sae_eval
    with tqdm(total=data_sets, desc="probes of latents, data sets") as bar:

        def probe_and_count(**arguments: Any) -> bool:
            is_done = probe(**arguments)
            bar.update()
            return is_done

        with patch.multiple(ON_LATENTS, run_sae_eval=probe_and_count, tqdm=iter):
            yield


def _table(name: str) -> Path:
    names = get_numbered_binary_tags()
    if name not in names:
        close = ", ".join(difflib.get_close_matches(name, names, 3, 0))
        raise bad_value("dataset_names", name, f"sae-probes has {len(names)} data sets; near this name: {close}")
    return DATA_PATH / "cleaned_data" / f"{name}.csv.zst"
