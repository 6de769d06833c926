"""What the documents tell people to type exists: commands, keys, make targets, links, code of `extending.md`."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import saemd
from saemd import cache, composition, consensus, evaluate, export, jobs, plan
from saemd.arguments import CONF
from saemd.composition import compose_all
from saemd.lm.anatomy import Family, Paths
from saemd.quality.config import compose_evaluation
from saemd.sae import base, starts
from saemd.stability import __main__ as stability

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [*DOCUMENTS, *sorted(ROOT.glob("experiments/*/README.md")), *sorted(ROOT.glob("saemd/quality/**/README.md"))]
PARSERS: dict[str, Callable[[list[str]], Any]] = {
    "train": compose_all,
    "plan": plan.parse,
    "consensus": consensus.parse,
    "cache": compose_all,
    "evaluate": compose_evaluation,
    "export": export.parse,
    "stability": stability.parse,
}


def commands() -> list[str]:
    """Every line that runs a command, in the documents and in the commands' own help, without its comment."""
    texts = [path.read_text() for path in DOCUMENTS]
    texts += [module.__doc__ or "" for module in (jobs, plan, cache, evaluate, export, stability)]
    lines = [line.strip() for text in texts for line in text.replace("\\\n", "").splitlines()]
    typed = re.compile(rf"(python -m saemd\.|saemd )({'|'.join(PARSERS)})\b(?!\.)")
    found = {" ".join(shlex.split(line, comments=True)) for line in lines if typed.match(line)}
    return [*{command(line): line for line in sorted(found) if "--cfg" not in line}.values()]  # that one Hydra answers


def command(line: str) -> tuple[str, tuple[str, ...]]:
    """The command's name and its arguments."""
    name, *arguments = line.removeprefix("python -m saemd.").removeprefix("saemd ").split()
    return name, tuple(arguments)


def few_of_product(*choices: list[str]) -> list[list[str]]:
    """As many combinations as are needed for each choice to be in one of them."""
    return [[some[i % len(some)] for some in choices] for i in range(max(map(len, choices), default=1))]


def blocks(path: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / path).read_text(), re.DOTALL)


@pytest.mark.parametrize("line", commands())
def test_commands_parse(line, monkeypatch):
    """Of a sweep's jobs so many that each value is in one."""
    monkeypatch.setattr(composition, "itertools", SimpleNamespace(product=few_of_product))
    name, arguments = command(line)
    assert PARSERS[name]([*arguments])


def test_every_command_is_shown():
    assert {command(line)[0] for line in commands()} == {*PARSERS}


@pytest.mark.parametrize("path", LINKED, ids=lambda path: str(path.relative_to(ROOT)))
def test_make_targets_and_links_exist(path):
    text, makefile = path.read_text(), (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z-]+)[` ]|^make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^{''.join(target)}:", makefile, re.MULTILINE), target
    for link in re.findall(r"\]\(([\w./=-]+)(?:#[\w-]+)?\)", text):
        assert (path.parent / link).exists(), link


@pytest.mark.parametrize("path", ["README.md", "docs/api.md"])
def test_shown_functions_exist(path):
    shown = {name for block in blocks(path, "python") for name in re.findall(r"saemd\.(\w+)", block)}
    assert shown >= {"compose", "train", "load_sae"}
    assert all(hasattr(saemd, name) for name in shown)


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_options_of_groups_are_listed():
    table = (ROOT / "docs/configuration.md").read_text().split("## Groups")[1].split("## Checks")[0]
    for folder in (*CONF.iterdir(), CONF / "hydra" / "launcher"):
        if folder.is_dir() and folder.name not in ("quality", "hydra"):
            name = folder.relative_to(CONF)
            row = next(line for line in table.splitlines() if line.startswith(f"| `{name}`"))
            for path in folder.glob("*.yaml"):
                assert f"`{path.stem}`" in row, (folder.name, path.stem)


def test_list_of_keys_is_current():
    page = runpy.run_path(str(ROOT / "docs/generate.py"))["page"]()
    assert (ROOT / "docs/keys.md").read_text() == page, "run: python docs/generate.py"


def test_presets_of_the_evaluation_compose():
    presets = sorted(path.stem for path in (CONF / "quality").glob("*.yaml"))
    found = {preset: compose_evaluation([f"quality={preset}"]).run_root for preset in presets}
    assert found == {"packaged": "runs", "paper": "runs/paper"}


def test_shown_start_and_architecture_work(monkeypatch):
    monkeypatch.setattr("saemd.sae.starts.base.INITS", {})
    shown: dict[str, Any] = {**vars(starts), **vars(base), "torch": torch, "Family": Family, "Paths": Paths}
    for block in blocks("docs/extending.md", "python")[:3]:
        exec(block, shown)
    x_ND = torch.randn(20, 6)
    sources = SimpleNamespace(sample=lambda: x_ND, d_sae=9, generator=torch.Generator().manual_seed(0))
    W_dec = shown["samples"](starts.InitConfig(), sources).W_dec
    torch.testing.assert_close(W_dec.norm(dim=1), torch.ones(9))
    sae = shown["ReLUSAE"](6, 9, scale=2.0)
    with torch.no_grad():
        sae.W_dec.copy_(W_dec)
        sae.W_enc.copy_(W_dec.T)
        sae.b_dec.fill_(0.1)
    sae.objective(x_ND, base.Progress(0, 10)).total.backward()
    assert sae.W_enc.grad.abs().sum() > 0
    torch.testing.assert_close(sae.folded()(x_ND), sae(x_ND))
    assert shown["FAMILIES"]["olmo2"].mlp.post_norm == "post_feedforward_layernorm"
