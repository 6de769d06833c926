"""Text streamed through datasets: nulls, columns that nobody reads, and what the hub does not give."""

import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from saemd.corpus import documents
from saemd.corpus.config import CorpusConfig
from saemd.corpus.hub import streamed
from saemd.errors import UserError

FIRST = [{"text": f"a{n}", "meta": None, "id": n} for n in range(30)]
SECOND = [{"id": "x", "late": 1, "text": f"b{n}", "meta": "s"} for n in range(30)]
TEXTS = sorted(row["text"] for row in FIRST + SECOND)


@pytest.fixture(autouse=True)
def _no_sleep(monkeypatch):
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


def save(folder: Path, *files: list[dict], form: str = "jsonl") -> str:
    """A data set in the hub's form, of one training file each."""
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("# Data")
    for n, rows in enumerate(files):
        file = folder / "data" / f"train-{n}.{form}"
        if form == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=7)
        else:
            file.write_text("\n".join(map(json.dumps, rows)))
    return str(folder)


def test_columns_that_nobody_reads_do_not_matter(tmp_path):
    assert sorted(streamed(save(tmp_path / "set", FIRST, SECOND, form="parquet"), "text", 0)) == TEXTS


def test_of_json_a_column_that_changes_ends_in_a_line_that_says_what_helps(tmp_path):
    with pytest.raises(
        UserError, match=r"^corpus.dataset=.*: the stream broke off after .*; start again, or set corpus.path"
    ):
        list(streamed(save(tmp_path / "set", FIRST, SECOND), "text", 0))


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_the_order_is_that_of_datasets(form, tmp_path, monkeypatch):
    """As it was before the text alone was read, so that no half-written cache goes on with other documents."""
    monkeypatch.setattr("saemd.corpus.hub.SHUFFLE_DOCUMENTS", 20)
    name = save(tmp_path / "set", FIRST, FIRST[::-1], FIRST[3:], form=form)
    rows = datasets.load_dataset(name, split="train", streaming=True).shuffle(seed=3, buffer_size=20)
    assert list(streamed(name, "text", seed=3)) == [row["text"] for row in rows]


def test_rows_without_a_text_are_skipped_and_said(tmp_path, capsys):
    name = save(tmp_path / "set", [{"text": None}, {"text": ""}, {"text": "a"}, {"body": "b"}])
    for _ in range(2):
        assert list(streamed(name, "text", 0)) == ["a"]
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("corpus")]
    assert said == [f"corpus.dataset={name}: skipped 3 of 4 rows: 3 with an empty or null text"]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_missing_field_lists_the_keys(form, tmp_path):
    with pytest.raises(
        UserError, match=r"^corpus.text_field=body: no row of .* has it; the keys there are text, meta, id$"
    ):
        list(streamed(save(tmp_path / "set", FIRST, form=form), "body", 0))


def test_a_text_that_is_none(tmp_path):
    with pytest.raises(UserError, match=r"^corpus.text_field=text: a row of .* has a number there, not text"):
        list(streamed(save(tmp_path / "a", [{"text": 3}]), "text", 0))


def test_what_the_hub_does_not_give(tmp_path, monkeypatch):
    name = save(tmp_path / "set", FIRST)
    (tmp_path / "set" / "data" / "train-0.jsonl").rename(tmp_path / "set" / "data" / "test-0.jsonl")
    with pytest.raises(UserError, match=r"^corpus.dataset=.*: cannot be streamed \(ValueError: Bad split: train."):
        list(streamed(name, "text", 0))

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        UserError, match=r"^corpus.dataset=x/y: the hub did not give it: check the name and the network"
    ):
        list(documents(CorpusConfig(name="x", dataset="x/y"), tmp_path, "train"))


def test_another_stream_is_read_as_it_is(monkeypatch):
    rows = datasets.Dataset.from_list([{"text": "a", "n": 1}, {"text": None, "n": 2}]).to_iterable_dataset()
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    assert list(streamed("x/y", "text", 0)) == ["a"]
