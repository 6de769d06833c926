"""A user's folder: what is read of it, what is left out and said, and the documents of a split."""

import json
from pathlib import Path

import pytest
from datasets import Dataset

from saemd.corpus import check_corpus, documents, fingerprint, some_documents
from saemd.corpus.files import order_of
from saemd.errors import UserError
from tests.corpus.forms import ROWS, TEXTS, arrow, config, lines, parquet, read
from tests.ordinary_user import read_only


def hub_folder(folder: Path) -> None:
    """As `hf download --local-dir` leaves a data set, with a tool's hidden folder."""
    for path, content in {
        "data/train-00000-of-00002.parquet": parquet(TEXTS[:50]),
        "data/train-00001-of-00002.parquet": parquet(TEXTS[50:]),
        "dataset_infos.json": json.dumps({"default": {"features": {}}}).encode(),
        "README.md": b"# Data",
        ".gitattributes": b"*.parquet filter=lfs",
        ".cache/huggingface/download/data/train.jsonl": b"no JSON",
        ".ipynb_checkpoints/a-checkpoint.txt": b"hidden",
        ".hidden.txt": b"hidden",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def test_a_folder_from_the_hub(tmp_path, capsys):
    hub_folder(tmp_path)
    check_corpus(config(tmp_path))
    assert sorted(read(tmp_path)) == sorted(read(tmp_path, seed=1)) == sorted(TEXTS)
    assert capsys.readouterr().err.splitlines() == [
        f"corpus.path={tmp_path}: left out 2 files (of other kinds): README.md, dataset_infos.json"
    ]


def test_a_folder_that_save_to_disk_wrote(tmp_path):
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "train", num_shards=2)
    (tmp_path / "train" / "cache-0123.arrow").write_bytes(arrow(["what a map of the data set gave"]))
    assert sorted(read(tmp_path)) == sorted(TEXTS)


def test_what_else_lies_in_a_folder_is_left_out_and_said(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_bytes(lines(["a"]))
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": 1, "model": {}}, indent=1))
    for name in ("b.csv", "c.tar.gz", "d.pdf", "e.md"):
        (tmp_path / name).write_text("x")
    assert read(tmp_path) == ["a"]
    assert capsys.readouterr().err.splitlines() == [
        f"corpus.path={tmp_path}: left out {what}"
        for what in (
            "4 files (of other kinds): b.csv, c.tar.gz, d.pdf, …",
            "1 file (empty): empty.jsonl",
            "1 file (without the text field): tokenizer.json",
        )
    ]


def test_names_are_taken_literally(tmp_path):
    """A bracket or a star is no pattern: not of a file, not of a folder."""
    for name, text in {
        "x[1].jsonl": "brackets",
        "x1.jsonl": "another",
        "run[1]/a.jsonl": "a",
        "run1/a.jsonl": "b",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(lines([text]))
    assert read(tmp_path / "x[1].jsonl") == ["brackets"]
    assert read(tmp_path / "run[1]") == ["a"]
    orders = [order_of([tmp_path / name]) for name in ("x1.jsonl", "x[1].jsonl", "run[1]/a.jsonl")]
    assert orders == ["buffered", "literal", "literal"], "activations of the other file are not taken for this one's"


def test_links(tmp_path):
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "blob").write_bytes(lines(["a"]))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").symlink_to("../away/blob")
    (tmp_path / "in" / "round").symlink_to(".")
    assert read(tmp_path / "in") == ["a"]
    (tmp_path / "away" / "blob").unlink()
    for call in (lambda: check_corpus(config(tmp_path / "in")), lambda: fingerprint(config(tmp_path / "in"))):
        with pytest.raises(UserError, match=r"corpus.path=.*in/a.jsonl: a link to nothing"):
            call()


def test_a_folder_behind_a_link_is_read(tmp_path):
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "a.jsonl").write_bytes(lines(["a"]))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "more").symlink_to(tmp_path / "away")
    assert read(tmp_path / "in") == ["a"]


def test_what_may_not_be_read(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(["a"]))
    (tmp_path / "b").mkdir(mode=0)
    with read_only(), pytest.raises(UserError, match=r"corpus.path=.*/b: cannot be read \(Permission denied\)"):
        read(tmp_path)
    (tmp_path / "b").rmdir()
    (tmp_path / "a.jsonl").chmod(0)
    said = r"corpus.path=.*a.jsonl: cannot be read \(PermissionError: Permission denied"
    with read_only(), pytest.raises(UserError, match=said):
        read(tmp_path)


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.jsonl").write_bytes(lines(["a"]))
    check_corpus(config("~/x"))
    assert list(documents(config("~/x", heldout_fraction=0.001), tmp_path, "train")) == ["a"]
    assert fingerprint(config("~/x")) == fingerprint(config(tmp_path / "x"))
    for path, message in {
        "~/y": f"corpus.path={tmp_path}/y: there is no such file",
        "~nobody-here/x": "there is no home folder",
    }.items():
        with pytest.raises(UserError, match=message):
            check_corpus(config(path))


def test_a_split_without_a_document(tmp_path):
    (tmp_path / "a.txt").write_text("one document")
    splits = {}
    for split in ("train", "heldout"):
        for fraction in (0.001, 0.999):
            try:
                splits[split, fraction] = list(
                    some_documents(config(tmp_path, heldout_fraction=fraction), tmp_path, split)
                )
            except UserError as error:
                splits[split, fraction] = str(error)
    remedy = "more documents, or a {} corpus.heldout_fraction, are needed"
    without = "corpus=files: none of its documents is in the {} split; " + remedy
    assert splits == {
        ("train", 0.001): ["one document"], ("heldout", 0.001): without.format("heldout", "larger"),
        ("train", 0.999): without.format("train", "smaller"), ("heldout", 0.999): ["one document"],
    }  # fmt: skip
