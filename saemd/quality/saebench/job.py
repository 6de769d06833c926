"""What the worker is asked to do: plain data, from the bench, the settings and the SAEs' files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from saemd.errors import bad_value
from saemd.lm.config import LMConfig
from saemd.lm.files import resolve
from saemd.lm.pickled import with_safetensors
from saemd.quality.bench import Bench
from saemd.quality.knowledge.questions import packaged_questions
from saemd.quality.knowledge.ravel import FEWEST, packaged_ravel
from saemd.quality.packaged import needed
from saemd.quality.saebench import environment
from saemd.quality.saebench.settings import (
    HELDOUT,
    PACKAGED,
    AbsorptionSettings,
    AutoInterpSettings,
    CoreSettings,
    RavelSettings,
    SAEBenchSettings,
    SaeProbesSettings,
    UnlearningSettings,
    endpoint_key,
    listing,
)

UNLEARNING_LMS = ("gemma-2-2b-it", "gemma-2-9b-it")  # the ones whose prompt format SAEBench knows
HELDOUT_CHARACTERS = 40_000_000
DRAWS = "alike"  # raised where other texts are drawn: what was kept of an evaluation is then not used


def build(evaluation: str, bench: Bench, settings: SAEBenchSettings, weights: dict[str, Path]) -> dict[str, Any]:
    """What the worker needs, plain data. Raises `UserError` where the settings cannot be followed here."""
    if isinstance(settings, AutoInterpSettings):
        endpoint_key(settings.key_variable)  # refused before any work
    data, known, packaged = _data_folder(settings), None, None
    if isinstance(settings, RavelSettings) and settings.data == PACKAGED:
        data, known, settings = _packaged_ravel(bench, settings)
    elif settings.data == PACKAGED:
        packaged = needed(evaluation, settings, bench.cache_root)
    lm = LMConfig(settings.lm) if isinstance(settings, UnlearningSettings) else bench.lm_config
    folder = with_safetensors(lm, bench.cache_root, resolve(lm, bench.cache_root))
    ours = [DRAWS, *(getattr(settings, key, None) for key in ("text", "max_words"))]
    config = {**settings.config(), "llm_dtype": settings.llm_dtype}
    about = [evaluation, {**config, "random_seed": None}, *ours, str(folder), listing(data) if data else [], packaged]
    about += [files for key, files in settings.local_files().items() if key in ("text", "lm")]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
    work = bench.folder("saebench") / f"{evaluation}-{digest}"
    work.mkdir(parents=True, exist_ok=True)
    job = {
        "evaluation": evaluation,
        "model": {"folder": str(folder.absolute()), "name": lm.name.rstrip("/").split("/")[-1]},
        "layer": bench.layer,
        "device": bench.device,
        "threads": torch.get_num_threads(),
        "llm_dtype": settings.llm_dtype,
        "seeds": [settings.random_seed + i for i in range(settings.repetitions)],
        "config": settings.config() if isinstance(settings, SaeProbesSettings) else config,
        "data": str(data) if data else None,
        "known": known,
        "packaged": packaged,
        "work": str(work.absolute()),
        "saes": [{"name": name, "weights": str(path.absolute())} for name, path in weights.items()],
    }
    if isinstance(settings, SaeProbesSettings):
        job["kept"] = str(_last_tokens(bench, settings, folder))
    if isinstance(settings, AbsorptionSettings):
        job["max_words"] = settings.max_words
    if isinstance(settings, CoreSettings | AutoInterpSettings):
        job["text"] = _text(bench, settings, work)
    if isinstance(settings, AutoInterpSettings):
        judge = {"base_url": settings.base_url, "name": settings.judge, "key_variable": settings.key_variable}
        job["judge"] = judge  # the key itself is not written down
    return job


def not_applicable_reason(bench: Bench, settings: SAEBenchSettings) -> str | None:
    """Why this evaluation makes no sense for the bench's model: known beforehand, or measured once for all SAEs."""
    if isinstance(settings, RavelSettings) and settings.data == PACKAGED:
        known = packaged_ravel(bench)
        return None if known.attributes else f"{bench.info.name} knows too little: {known.said}; {FEWEST} are wanted"
    if not isinstance(settings, UnlearningSettings):
        return None
    name = settings.lm.rstrip("/").split("/")[-1]
    if name not in UNLEARNING_LMS:
        raise bad_value("lm", settings.lm, f"SAEBench asks {' or '.join(UNLEARNING_LMS)} alone")
    base = name.removesuffix("-it")
    if bench.lm_config.name.rstrip("/").split("/")[-1] == base:
        return None
    asks = f"SAEBench asks {name} in its own prompt format, so the SAEs must be of {base}, not of {bench.info.name}"
    return f"{asks}; {packaged_questions(bench).said}"


def _packaged_ravel(bench: Bench, settings: RavelSettings) -> tuple[Path, dict[str, Any], RavelSettings]:
    """The packaged set's folder, its numbers, and the settings with what is selected of it: all, by default."""
    known = packaged_ravel(bench)
    numbers = {name: dataclasses.asdict(knowledge) for name, knowledge in known.knowledge.items()}
    hub = RavelSettings().entity_attribute_selection  # a command line adds to these, so they count as not chosen
    selected = {name: chosen for name, chosen in settings.entity_attribute_selection.items() if chosen != hub.get(name)}
    selected = selected or known.attributes
    for entity_type, attributes in selected.items():
        if len(set(attributes) & set(known.attributes.get(entity_type, []))) < max(2, len(attributes)):
            remedy = f"with data=packaged at least two attributes of {known.attributes}"
            raise bad_value("entity_attribute_selection", {entity_type: attributes}, remedy)
    return known.data, numbers, dataclasses.replace(settings, entity_attribute_selection=selected)


def _last_tokens(bench: Bench, settings: SaeProbesSettings, model: Path) -> Path:
    """Where the activations of sae-probes' texts are kept, by what they depend on."""
    about = [environment.versions()["sae-probes"], settings.llm_dtype, str(model)]
    digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
    return (bench.folder("saebench") / f"last-tokens-{digest}").absolute()


def _data_folder(settings: SAEBenchSettings) -> Path | None:
    if settings.data in ("", PACKAGED):
        return None
    folder = Path(settings.data).expanduser().absolute()
    if not folder.is_dir():
        remedy = "neither packaged nor a folder with copies of hub data sets, as <data>/LabHC/bias_in_bios"
        raise bad_value("data", settings.data, remedy)
    return folder


def _text(bench: Bench, settings: CoreSettings | AutoInterpSettings, work: Path) -> str:
    """What `load_dataset` gets: a hub id, or a folder with train.jsonl (`{"text": …}` a line)."""
    if settings.text == HELDOUT:
        folder = work / HELDOUT
        folder.mkdir(exist_ok=True)
        characters = 0
        with open(folder / "train.jsonl", "w") as file:
            for text in bench.texts():
                file.write(json.dumps({"text": text}) + "\n")
                characters += len(text)
                if characters > HELDOUT_CHARACTERS:
                    break
        return str(folder.absolute())
    local = Path(settings.text).expanduser()
    if local.is_dir():
        if not any(local.glob("*train*")):
            raise bad_value("text", settings.text, "this folder has no train.jsonl, train.parquet or the like")
        return str(local.absolute())
    if settings.text.startswith((".", "/", "~")):
        raise bad_value("text", settings.text, "no such folder; name a hub id, a folder with train.jsonl, or heldout")
    return settings.text
