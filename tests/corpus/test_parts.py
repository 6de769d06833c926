"""Parts of the documents: they share none, together they are all, and held-out documents belong to every part."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from saemd.composition import compose_all
from saemd.corpus import documents, fingerprint
from saemd.corpus.config import CorpusConfig, number_of_parts, part_of
from saemd.errors import UserError
from tests.pipeline import save_jsonl


@pytest.fixture
def corpus(tmp_path) -> CorpusConfig:
    return CorpusConfig(name="files", path=str(save_jsonl(tmp_path / "text.jsonl", 400)), heldout_fraction=0.2)


@pytest.mark.parametrize("n", [2, 3])
def test_parts_share_nothing_and_cover_all(corpus, n, tmp_path):
    everything = list(documents(corpus, tmp_path, "train"))
    parts = [list(documents(dataclasses.replace(corpus, part=f"{i}/{n}"), tmp_path, "train")) for i in range(n)]
    assert sum(map(len, parts)) == len(everything) == len({*everything})
    assert {text for part in parts for text in part} == {*everything}
    for part in parts:
        assert part == [text for text in everything if text in part]  # in the same order
        assert len(part) == pytest.approx(len(everything) / n, rel=0.3)


def test_every_part_has_the_same_held_out_documents(corpus, tmp_path):
    held_out = list(documents(corpus, tmp_path, "heldout"))
    assert len(held_out) > 40
    for part in ("0/2", "1/2"):
        assert list(documents(dataclasses.replace(corpus, part=part), tmp_path, "heldout")) == held_out


def test_the_texts_digest_is_that_of_all_parts(corpus):
    assert fingerprint(dataclasses.replace(corpus, part="0/2")) == fingerprint(corpus)


@pytest.mark.parametrize(
    ("value", "seed", "part", "n"),
    [("same", 24, None, 1), ("1/2", 24, "1/2", 2), ("disjoint:24-42", 42, "1/2", 2), ("disjoint:1-2-3", 1, "0/3", 3)],
)
def test_a_seed_knows_its_part(value, seed, part, n):
    assert (part_of(value, seed), number_of_parts(value)) == (part, n)


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("disjoint", "documents=disjoint: only a sweep of several seeds knows them; name them, as disjoint:24-42"),
        ("2/2", "documents=2/2: parts count from 0"),
        ("0/1", "documents=0/1: parts count from 0, and there are at least two"),
        ("disjoint:1-1", "documents=disjoint:1-1: name each seed once"),
        ("disjoint:1-2", "documents=disjoint:1-2: it has no part for seed=24"),
        ("half", "documents=half: use same, disjoint, or a part such as 0/2"),
    ],
)
def test_what_is_no_part_is_refused(value, line):
    with pytest.raises(UserError, match=line):
        compose_all([f"documents={value}"])


def test_the_derived_key_cannot_be_set():
    with pytest.raises(UserError, match=r"corpus\.part=0/2: write documents=0/2"):
        compose_all(["corpus.part=0/2"])


@pytest.mark.parametrize("seeds", ["24,42", "'range(3,6)'", "3,1"])
def test_a_sweep_gives_each_seed_a_part(seeds):
    configs = compose_all(["-m", f"seed={seeds.strip(chr(39))}", "documents=same,disjoint"])
    named = "-".join(str(config.seed) for config in configs if config.documents == "same")
    apart = [config for config in configs if config.documents == f"disjoint:{named}"]
    assert len(apart) == len(configs) // 2 >= 2
    assert [config.corpus.part for config in apart] == [f"{i}/{len(apart)}" for i in range(len(apart))]
    assert {config.corpus.part for config in configs} - {config.corpus.part for config in apart} == {None}
    alone = compose_all([f"seed={apart[0].seed}", f"documents=disjoint:{named}"])[0]
    assert alone.corpus.part == apart[0].corpus.part
    assert Path(apart[0].run_root) == Path("runs")
