"""What identifies a run: the part of its configuration that decides its weights, and its activations."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from saemd.config import Config
from saemd.corpus.config import SAME, number_of_parts
from saemd.errors import UserError
from saemd.remote.urls import recorded
from saemd.runs.files import CHECKPOINT, CONFIG, METRICS, read_config

SEED_KEYS = ("seed", "init_seed", "data_seed")
EARLIER = "its activations are others: files of the model or the text changed, or an earlier version identified them"

_INPUTS = ("lm", "corpus")  # the fingerprint of the activations stands for them
# These keys change where and how a run is computed and what is kept of it, not its weights.
_ELSEWHERE = (
    "folder", "logger", "run_root", "cache_root", "together", "accelerator", "devices", "threads",
    "checkpoint_minutes", "snapshots",
)  # fmt: skip
# Of `activations`: memory and time alone. A run from memory (`name`, `device`) is the run from the cache; the keys of
# other sources tell them apart.
_SPEED = ("lm_batch_tokens", "prefetch_batches", "name", "device", "local_gigabytes")
# Keys that came later, with the value that stands for what earlier runs did: with it they decide nothing new, so that
# a run's fingerprint and folder stay those of a run that was trained before.
_LATER: Mapping[str, Any] = {
    "documents": SAME, "activations.hook": "residual", "init.offset": 0, "init.shared": False,
    "recipe.lr_decay": "linear", "recipe.lr_final": 0.0, "recipe.encoder_decay": 0.0,
    "recipe.encoder_decay_until": 1.0, "recipe.freeze_decoder_after": 1.0, "recipe.freeze_encoder_after": 1.0,
    "recipe.decoder_cosine": -1.0, "recipe.l0_start": 1.0, "recipe.l0_fall_fraction": 0.5,
    "recipe.resample_steps": 0, "recipe.resample_until": 0.8,
}  # fmt: skip
_LATER_OF_JUMPRELU: Mapping[str, Any] = {  # other architectures had keys of these names from the start
    "sae.step_gradient": "threshold", "sae.sparsity": "l0", "sae.tanh_scale": 4.0, "sae.seek_l0": 0.0,
    "sae.pre_activation_coefficient": 0.0, "sae.dead_after_tokens": 10_000_000,
}  # fmt: skip


class Origin(Protocol):
    """Where activations come from."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def whole_fingerprint(self) -> str: ...  # that all parts of the documents share
    @property
    def lm_fingerprint(self) -> str: ...
    @property
    def corpus_fingerprint(self) -> str: ...


def changes_runs(key: str) -> bool:
    """Do two runs that differ in `key` have different weights? `key` is dotted, or a configuration group."""
    top, _, rest = key.partition(".")
    return not (top in _ELSEWHERE or top.partition("/")[0] == "hydra" or (top == "activations" and rest in _SPEED))


def identify(config: Config, origin: Origin) -> dict[str, Any]:
    """What decides whether two runs are the same, or siblings. `origin` is that of the activations."""
    values = dataclasses.asdict(config)
    if "sae" in values["init"]:  # of init=saved: in a store it is the same SAE for all machines
        values["init"]["sae"] = recorded(values["init"]["sae"])
    roots = {key: recorded(values[key]) for key in ("run_root", "cache_root")}
    return {
        "config": {**values, **roots},
        "fingerprint": _fingerprint(decisive(values, origin.fingerprint)),
        "sibling_fingerprint": _fingerprint(common(values, origin.whole_fingerprint)),
        "cache_fingerprint": origin.fingerprint,
        "lm_fingerprint": origin.lm_fingerprint,  # parts of the cache's, so that a refusal can say which one changed
        "corpus_fingerprint": origin.corpus_fingerprint,
    }


def decisive(values: Mapping[str, Any], cache_fingerprint: str) -> dict[str, Any]:
    """The part of a configuration that decides a run's weights; `cache` stands for the language model and the text."""
    matters = {key: value for key, value in values.items() if key not in (*_ELSEWHERE, *_INPUTS)}
    reading = {key: value for key, value in (values.get("activations") or {}).items() if key not in _SPEED}
    return _without({**matters, "activations": reading, "cache": cache_fingerprint}, later(values))


def common(values: Mapping[str, Any], whole_fingerprint: str) -> dict[str, Any]:
    """The part of `decisive` that seeds have in common. They may train on different ones of equally many parts."""
    matters = {key: value for key, value in decisive(values, whole_fingerprint).items() if key not in SEED_KEYS}
    if "documents" in matters:
        matters["documents"] = number_of_parts(matters["documents"])
    if "sae" in (init := matters.get("init") or {}):  # of init=saved: which SAE is the seed's own
        matters["init"] = {key: value for key, value in init.items() if key != "sae"}
    return matters


def later(values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a configuration, joined with dots, that earlier versions had not, and what stands for them."""
    is_jumprelu = (values.get("sae") or {}).get("name") == "jumprelu"
    return {**_LATER, **(_LATER_OF_JUMPRELU if is_jumprelu else {})}


def _without(values: Mapping[str, Any], neutral: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values without the keys that are as in `neutral`."""
    return {
        key: _without(value, neutral, f"{prefix}{key}.") if isinstance(value, dict) else value
        for key, value in values.items()
        if not (f"{prefix}{key}" in neutral and value == neutral[f"{prefix}{key}"])
    }


def refuse_another(folder: Path, about: dict[str, Any]) -> None:
    """Raise `UserError` with the differing keys where `folder` holds a run of another configuration than `about`.

    Also where its configuration cannot be read.
    """
    if not any((folder / name).exists() for name in (CONFIG, CHECKPOINT, METRICS)):
        return
    existing = read_config(folder)
    old, new = (flatten(decisive(side["config"], side["cache_fingerprint"])) for side in (existing, about))
    if old == new:
        return
    if "sae" in about["config"] and "sae" not in existing["config"]:
        what = "holds a run of an earlier version, which other commands read but training cannot go on with"
        raise UserError(f"{folder} {what}; choose another run_root")
    del old["cache"], new["cache"]
    shown = _shown(old, new)
    if existing["cache_fingerprint"] != about["cache_fingerprint"]:
        shown += _changed_inputs(existing, about) or ([] if shown else [EARLIER])
    raise UserError(
        f"{folder} holds a run of another configuration ({', '.join(shown)}); choose another run_root, or delete it"
    )


def differences(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """The keys, joined with dots, in which two configurations differ, with both values."""
    return _differing(flatten(dataclasses.asdict(a)), flatten(dataclasses.asdict(b)))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined with dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _differing(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {key: (old.get(key), new.get(key)) for key in sorted(old | new) if old.get(key) != new.get(key)}


def _shown(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [f"{key}: {before} there, {asked} asked for" for key, (before, asked) in _differing(old, new).items()]


def _changed_inputs(existing: dict[str, Any], about: dict[str, Any]) -> list[str]:
    """Why the activations differ: the differing keys of model and text, or that their files changed."""
    shown: list[str] = []
    for group, name in (("lm", "lm.name"), ("corpus", "corpus.path")):
        old, new = (flatten({group: side["config"].get(group) or {}}) for side in (existing, about))
        earlier = existing.get(f"{group}_fingerprint")
        if keys := _shown(old, new):
            shown += keys
        elif earlier and earlier != about[f"{group}_fingerprint"]:
            shown.append(f"the files of {name}={new.get(name)} have changed since")
    return shown


def _fingerprint(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
