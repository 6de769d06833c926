"""What SAEs are measured on: the runs' own language model, layer and held-out text, loaded when first needed."""

import dataclasses
import hashlib
import importlib.metadata
import itertools
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from saemd import __version__
from saemd.activations.config import RESIDUAL, HarvestConfig, schema
from saemd.activations.harvest import open as harvest
from saemd.corpus.config import CorpusConfig
from saemd.corpus.documents import documents
from saemd.corpus.documents import fingerprint as corpus_fingerprint
from saemd.corpus.pack import Context, contexts
from saemd.errors import UserError, bad_value
from saemd.lm.config import LMConfig
from saemd.lm.files import label
from saemd.lm.load import LM, LMInfo, lm_info, load_lm
from saemd.runs import Run


class Bench:
    """The language model, layer and corpus of a run's configuration, and the folder for what is computed from them.

    The language model has all its layers and runs in float32, whatever dtype the activation cache has. Raises
    `UserError` where the configuration, the model or the corpus cannot be read.
    """

    def __init__(self, run_config: dict[str, Any], cache_root: Path, device: str = "cpu") -> None:
        self.lm_config: LMConfig = _typed(LMConfig, run_config, "lm")
        self.corpus: CorpusConfig = _typed(CorpusConfig, run_config, "corpus")
        self.activations: HarvestConfig = _activations(run_config)
        if (hook := self.activations.hook) != RESIDUAL:
            remedy = "scores put reconstructions into the residual stream; only runs with residual are measured"
            raise bad_value("activations.hook", hook, remedy)
        self.layer = _layer(run_config)  # decoder layer whose output the SAEs take, from 0
        self.context_length = self.activations.context_length
        self.cache_root, self.device = cache_root, device

    @cached_property
    def info(self) -> LMInfo:
        """Sizes and fingerprint of the language model, without its weights."""
        info = lm_info(self.lm_config, self.cache_root)
        if not 0 <= self.layer < info.n_layers:
            raise bad_value("layer", self.layer, f"{info.name} has layers 0 to {info.n_layers - 1}")
        return info

    @cached_property
    def fingerprint(self) -> str:
        """Identifies model, layer and text, but not the number of contexts that a score takes."""
        text = corpus_fingerprint(self.corpus, self.cache_root)
        about = [self.info.fingerprint, self.layer, text, self.context_length]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]

    @cached_property
    def lm(self) -> LM:
        """The model in eval mode, float32, on `device`, with its tokenizer."""
        lm = load_lm(self.lm_config, self.cache_root, dtype=torch.float32, device=self.device)
        lm.model.requires_grad_(False)
        return lm

    def texts(self) -> Iterator[str]:
        """The held-out documents, which no SAE was trained on, in a fixed order."""
        return documents(self.corpus, self.cache_root, "heldout")

    def contexts(self, key: str, tokens: int) -> list[Context]:
        """The whole contexts in the first `tokens` tokens of held-out text, packed as in training.

        Raises `UserError` where there is less text; `key` is the one that asks for so many tokens.
        """
        n = tokens // self.context_length
        found = list(itertools.islice(contexts(self.texts(), self.lm.tokenizer, self.context_length), n))
        if len(found) < n:
            total = f"{len(found) * self.context_length:,} tokens"
            remedy = "use fewer, or train with more corpus.heldout_fraction"
            raise bad_value(key, tokens, f"the held-out documents of {self.corpus.name} give {total}; {remedy}")
        return found

    def folder(self, name: str) -> Path:
        """Where a score keeps what it computes once for all SAEs. It may not exist yet, and may be deleted."""
        return self.cache_root / "quality" / f"{label(self.info.name)}-layer{self.layer}-{self.fingerprint}" / name

    @property
    def data(self) -> dict[str, Any]:
        """The bench's part of a record's `data`."""
        return {
            "lm": self.info.name,
            "lm_fingerprint": self.info.fingerprint,
            "layer": self.layer,
            "corpus": self.corpus.name,
            "split": "heldout",
            "context_length": self.context_length,
        }

    @property
    def versions(self) -> dict[str, str]:
        return {"saemd": __version__, **{name: importlib.metadata.version(name) for name in ("torch", "transformers")}}

    def refuse_other_origin(self, run: Run) -> None:
        """Raise `UserError` where model, text or width are no longer those that the run was trained on."""
        if run.d_in != self.info.d_model:
            width = f"{self.info.name} has activations of width {self.info.d_model}"
            raise bad_value("run_dir", run.path, f"its SAE takes width {run.d_in}, but {width}; remove this folder")
        activations = _activations(run.config)  # runs of a bench may differ in these
        corpus = dataclasses.replace(self.corpus, part=_typed(CorpusConfig, run.config, "corpus").part)
        origin = harvest.describe(self.lm_config, self.layer, corpus, activations, self.cache_root)
        if origin.fingerprint != run.saved["cache_fingerprint"]:
            present = f"lm={self.info.name}, layer={self.layer}, corpus={self.corpus.name}"
            remedy = f"{present} are not what it was trained on any more; bring these back, or train it again"
            raise bad_value("run_dir", run.path, remedy)


def _layer(run_config: dict[str, Any]) -> int:
    layer = run_config.get("layer")
    if not isinstance(layer, int):
        raise UserError(f"config.yaml: its layer cannot be read ({layer!r}); train the run again")
    return layer


def _activations(run_config: dict[str, Any]) -> HarvestConfig:
    return _typed(schema(run_config.get("activations") or {}), run_config, "activations")


def _typed(schema: type, run_config: dict[str, Any], key: str) -> Any:
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), run_config[key]))
    except (OmegaConfBaseException, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"config.yaml: its {key} cannot be read ({reason}); train the run again") from error
