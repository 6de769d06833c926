"""Write `docs/keys.md`, the configuration reference, from the dataclasses and from `conf/`.

    python docs/generate.py

A field's meaning is the comment on its line, or the comment lines directly above it.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING

from saemd.activations.config import SCHEMAS
from saemd.arguments import CONF
from saemd.config import Config
from saemd.corpus.config import CorpusConfig, SourceConfig
from saemd.lm.config import LMConfig, PackageConfig
from saemd.logging.config import LoggerConfig
from saemd.quality.config import EvaluateConfig
from saemd.quality.scores import SCORES
from saemd.sae.registry import ARCHITECTURES
from saemd.sae.starts import INITS
from saemd.training.config import RecipeConfig

PAGE = Path(__file__).with_name("keys.md")
GROUPS = {
    "lm": "the language model",
    "corpus": "the text",
    "activations": "where activations come from",
    "sae": "the architecture of the SAE",
    "init": "the weights at step 0",
    "recipe": "optimizer and schedules",
    "logger": "where metrics go",
}
INTRO = """# All keys

<!-- Written by `python docs/generate.py` from the dataclasses and conf/. Do not edit. -->

[Configuration](configuration.md) says how keys are set. A group has keys of its own, and options that are
files of `conf/<group>/`.
"""


def page() -> str:
    config = yaml.safe_load((CONF / "config.yaml").read_text())
    evaluate = yaml.safe_load((CONF / "evaluate.yaml").read_text())
    options = {
        group: option for entry in config["defaults"] if isinstance(entry, dict) for group, option in entry.items()
    }
    parts = [INTRO, "## Training", _intro(Config), _table(Config, defaults=config, groups=options)]
    for group, schemas in {
        "lm": {"": LMConfig, "packages[]": PackageConfig},
        "corpus": {"": CorpusConfig, "sources.<name>": SourceConfig},
        "activations": SCHEMAS,
        "sae": {name: sae.Config for name, sae in ARCHITECTURES.items()},
        "init": {name: start.Config for name, start in INITS.items()},
        "recipe": {"": RecipeConfig},
        "logger": {"": LoggerConfig},
        "experiment": {},
    }.items():
        parts += [f"## `{group}`", _options(group)]
        for name, schema in schemas.items():
            title = f"`{group}.{name}.…`" if group in ("lm", "corpus") else f"`{group}={name}`"
            parts += [f"### {title}"] if name else []
            parts += [_intro(schema), _table(schema, prefix=_prefix(group, name))]
    parts += ["## Evaluation", _intro(EvaluateConfig), _table(EvaluateConfig, defaults=evaluate), _options("quality")]
    for score in SCORES.values():
        parts += [
            f"### `{score.name}`",
            f"{score.title}. Needs: {score.needs}.",
            _table(score.settings, score.name + "."),
        ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _prefix(group: str, name: str) -> str:
    return f"{group}.{name}." if name and group in ("lm", "corpus") else f"{group}."


def _intro(schema: type) -> str:
    doc = inspect.getdoc(schema) or ""
    return "" if doc.startswith(f"{schema.__name__}(") else doc  # which dataclass writes by itself


def _table(
    schema: type, prefix: str = "", defaults: dict[str, Any] | None = None, groups: dict[str, Any] | None = None
) -> str:
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for field in dataclasses.fields(schema):
        if prefix in ("activations.", "sae.", "init.") and field.name == "name":
            continue  # the option's own name
        annotation, comment = _source(schema, field.name)
        key, type_ = f"`{prefix}{field.name}`", f"`{annotation.replace(' | ', ' or ')}`"
        default = _default(field)
        if default is MISSING or (defaults or {}).get(field.name) is not None:
            default = (defaults or {}).get(field.name, MISSING)
        if not prefix and field.name in GROUPS:
            key, type_, comment = f"**[`{field.name}`](#{field.name})**", "group", GROUPS[field.name]
            default = (groups or {}).get(field.name, MISSING)
        rows.append(f"| {key} | {type_} | {_shown(default)} | {_text(comment)} |")
    return "\n".join(rows) if len(rows) > 2 else "No keys of its own."


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return MISSING if field.default is dataclasses.MISSING else field.default


def _shown(value: Any) -> str:
    if value is MISSING or value == MISSING:
        return ""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 10_000:
        return f"`{value:_}`"
    text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return f"`{_cell(text.removesuffix('...' + chr(10)).strip())}`" if text else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _text(text: str) -> str:
    return _cell(text).replace("<", "&lt;")


def _source(schema: type, name: str) -> tuple[str, str]:
    """The annotation of a field and its comment, as written in the class that declares it last."""
    for owner in schema.__mro__:
        if name in vars(owner).get("__annotations__", {}):
            return _declared(owner)[name]
    raise LookupError(f"{schema.__name__}.{name} is not declared")


@cache
def _declared(owner: type) -> dict[str, tuple[str, str]]:
    lines = inspect.getsource(owner).splitlines()
    declared = {}
    for node in ast.parse("\n".join(lines)).body[0].body:  # type: ignore[attr-defined]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.end_lineno:
            behind = lines[node.end_lineno - 1][node.end_col_offset or 0 :].partition("#")[2]
            comments = [*reversed([*_comments_above(lines, node.lineno - 1)]), behind.strip()]
            comment = " ".join(text for text in comments if text not in ("", "fmt: skip"))
            declared[node.target.id] = ast.unparse(node.annotation), comment
    return declared


def _comments_above(lines: list[str], index: int) -> Iterable[str]:
    while index and lines[index - 1].strip().startswith("#"):
        index -= 1
        yield lines[index].strip().removeprefix("#").strip()


def _options(group: str) -> str:
    """The files of `conf/<group>/`, each with the comment at its top."""
    rows = []
    for path in sorted((CONF / group).glob("*.yaml")):
        comments = []
        for line in path.read_text().splitlines():
            if not line.startswith("#"):
                break
            comments.append(line.removeprefix("#").strip())
        meaning = " ".join(line for line in comments if not line.startswith("@package")) or _first_line(path.stem)
        rows.append(f"| `{group}={path.stem}` | {_text(meaning)} |")
    return "\n".join(["| option | what it is |", "| --- | --- |", *rows]) if rows else ""


def _first_line(start: str) -> str:
    return (inspect.getdoc(INITS[start].function) or "").split("\n")[0]


if __name__ == "__main__":
    PAGE.write_text(page())
