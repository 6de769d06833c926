"""A user's file: every form gives the same documents, damage is one line, and what is left out is said."""

import bz2
import gzip
import json
import lzma
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from saemd.corpus import check_corpus, documents
from saemd.corpus.config import CorpusConfig, SourceConfig
from saemd.corpus.files import read_files
from saemd.errors import UserError
from tests.corpus.forms import FORMS, ROWS, TEXTS, arrow, config, frames, lines, parquet, read


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_documents(name, tmp_path):
    (tmp_path / name).write_bytes(FORMS[name]())
    check_corpus(config(tmp_path / name))
    documents = read(tmp_path / name, seed=3)
    assert sorted(documents) == sorted(TEXTS)
    plain = list(TEXTS)
    random.Random(3).shuffle(plain)
    assert documents == plain, "rows are shuffled from the file's own order"


def test_a_text_is_a_document(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ndocument\n")
    (tmp_path / "B.TXT.gz").write_bytes(gzip.compress(b"two"))
    assert sorted(read(tmp_path)) == ["one\ndocument", "two"]


def cut_between_blocks(content: bytes) -> bytes:
    """zstd that ends after a whole block, whose last line is whole, but within its frame."""
    compressor = zstandard.ZstdCompressor().compressobj()
    return compressor.compress(content) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)


CUT: dict[str, list[bytes]] = {
    "a.jsonl": [lines(TEXTS[:9])[:-2]],
    "a.json": [json.dumps(ROWS[:9]).encode()[:end] for end in (1, 30, -1)],
    "a.jsonl.zst": [cut_between_blocks(lines(TEXTS)), frames(lines(TEXTS)) + cut_between_blocks(lines(TEXTS))],
}
for _ending, _whole in {
    "a.jsonl.gz": gzip.compress(lines(TEXTS[:99])), "b.jsonl.zst": zstandard.compress(lines(TEXTS[:99])),
    "a.jsonl.bz2": bz2.compress(lines(TEXTS[:99])), "a.jsonl.xz": lzma.compress(lines(TEXTS[:99])),
    "a.parquet": parquet(TEXTS[:99]), "a.arrow": arrow(TEXTS[:99]),
}.items():  # fmt: skip
    CUT[_ending] = [_whole[:end] for end in (1, 3, 9, len(_whole) // 2, len(_whole) - 9, len(_whole) - 1)]


@pytest.mark.parametrize("name", CUT)
def test_a_file_that_is_cut_off_is_refused_wherever_it_ends(name, tmp_path):
    for content in CUT[name]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"^corpus.path=.*{name}: ") as refused:
            read(tmp_path)
        assert "\n" not in str(refused.value)


BAD: dict[str, tuple[str, bytes, str]] = {
    "not JSON": ("a.jsonl", b'{"text": "x"}\n\n{"text"\n', r"corpus.path=.*a.jsonl: line 3 is not JSON \("),
    "no object": ("a.jsonl", b'{"text": "x"}\n["text"]', r"a.jsonl: line 2 is a list; each row must be an object"),
    "null row": ("a.jsonl", b"null\n", r"a.jsonl: line 1 is null; "),
    "array of texts": ("a.json", b'["one", "two"]', r"a.json: row 1 is a string; "),
    "array and more": ("a.json", b'[{"text": "x"}] {}', r"a.json: row 1 is followed by more than its array"),
    "no comma": ("a.json", b'[{"text": "x"} {"text": "y"}]', r"a.json: row 2 is not JSON \(Expecting ','\)"),
    "deep": ("a.jsonl", b'{"x": ' + b"[" * 100_000 + b"\n", r"a.jsonl: line 1 is not JSON \(nested too deep\)"),
    "number": ("a.jsonl", b'{"text": "x"}\n{"text": 3}', r"corpus.text_field=text: line 2 of .* has a number there"),
    "list": ("a.json", b'[{"text": ["x"]}]', r"corpus.text_field=text: row 1 of .*a.json has a list there, not text"),
    "Latin-1": ("a.jsonl", '{"text": "x"}\n"ä"'.encode("latin-1"), r"a.jsonl: line 2 is not UTF-8 \(byte 0xe4\)"),
    "Latin-1 array": ("a.json", '[{"text": "ä"}]'.encode("latin-1"), r"a.json: row 0 or one after it is not UTF-8"),
    "UTF-16": ("a.jsonl", '{"text": "x"}'.encode("utf-16"), r"a.jsonl: line 1 is not UTF-8"),
    "UTF-16 text": ("a.txt", "text".encode("utf-16"), r"a.txt: cannot be read \(UnicodeDecodeError"),
    "plain .zst": ("a.jsonl.zst", b'{"text": "x"}', r"a.jsonl.zst: cannot be read \(ZstdError"),
    "plain .gz": ("a.jsonl.gz", b'{"text": "x"}', r"a.jsonl.gz: cannot be read \(BadGzipFile"),
    "plain .parquet": ("a.parquet", b'{"text": "x"}', r"a.parquet: cannot be read \(ArrowInvalid"),
    "git-lfs": ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", r"a.parquet: is a pointer of git-lfs"),
    "blank": ("a.jsonl", b"\n \n", r"a.jsonl: the file is empty"),
    "empty .gz": ("a.jsonl.gz", gzip.compress(b""), r"a.jsonl.gz: the file is empty"),
    "only nulls": ("a.jsonl", b'{"text": null}\n', r"corpus.path=.*: no text in these files"),
    "no field": ("a.jsonl", b'{"body": "x", "n": 1}\n', r"text_field=text: no row of .* keys there are body, n$"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_is_one_line(case, tmp_path):
    name, content, message = BAD[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path)
    with pytest.raises(UserError, match=message):
        check_corpus(config(tmp_path))


def test_columns_that_nobody_reads_do_not_matter(tmp_path):
    """Their types may change, they may come late, and no number in them is too long."""
    rows = [
        {"text": "a", "meta": None, "id": 1},
        {"id": "x", "text": "b", "late": [1], "meta": "s"},
        {"text": "2020-01-01"},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"text": "c", "id": 1' + "0" * 5000 + "}")
    broken = pa.table({"text": pa.array(["d"]).dictionary_encode(), "meta": [b"\xff"]})
    pq.write_table(broken, tmp_path / "b.parquet")
    pq.write_table(pa.table({"text": pa.array(["e"], pa.large_string()), "meta": [{"x": 1}]}), tmp_path / "c.parquet")
    assert sorted(read(tmp_path)) == ["2020-01-01", "a", "b", "c", "d", "e"]


def test_a_column_that_is_no_text_is_refused(tmp_path):
    for values in ([1, 2], [b"bytes"], [["x"]], pa.array([0], pa.timestamp("s"))):
        pq.write_table(pa.table({"text": values}), tmp_path / "a.parquet")
        with pytest.raises(UserError, match=r"corpus.text_field=text: this column of .*a.parquet holds .*, not text"):
            check_corpus(config(tmp_path))


def test_half_a_character_is_replaced(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "cut \\ud83d here"}')
    assert read(tmp_path) == ["cut \ufffd here"]


def test_rows_without_a_text_are_skipped_and_counted_once(tmp_path, capsys):
    rows = [{"text": None}] * 1500 + [{"text": ""}, {"body": "x"}, {"text": "a"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "b.parquet").write_bytes(parquet(["b", None, ""]))
    check_corpus(config(tmp_path))
    for _ in range(2):
        for split in ("train", "heldout"):
            list(documents(config(tmp_path), tmp_path, split))
    assert sorted(read(tmp_path)) == ["a", "b"]
    said = capsys.readouterr().err.splitlines()
    expected = "skipped 1,504 of 1,506 rows: 1,503 with an empty or null text, 1 without the text field"
    assert said == [f"corpus.path={tmp_path}: {expected}"]


def test_rows_skipped_in_a_pass_that_ends_early_are_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("saemd.corpus.files.SHUFFLE_DOCUMENTS", 5)
    (tmp_path / "a.jsonl").write_bytes(b'{"text": null}\n{}\n' + lines(TEXTS))
    next(read_files(tmp_path, "text", 0))
    assert (
        "skipped 2 of the 8 rows read so far: 1 with an empty or null text, 1 without the text"
        in capsys.readouterr().err
    )


def test_a_field_that_is_missing_everywhere_is_noticed_early(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "x", "title": "y"}\n' * 1000 + "never reached")
    for call in (lambda: read(tmp_path), lambda: check_corpus(config(tmp_path))):
        with pytest.raises(
            UserError, match=r"text_field=text: none of the first 1,000 rows of .*a.jsonl has it; .* body, title"
        ):
            call()
    (tmp_path / "a.jsonl").write_text('{"body": "x"}\n' * 999 + '{"text": "late"}')
    assert read(tmp_path) == ["late"]


def test_the_check_reads_only_the_first_rows(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(TEXTS[:100]) + b"no JSON")
    check_corpus(config(tmp_path))
    with pytest.raises(UserError, match=r"a.jsonl: line 101 is not JSON"):
        read(tmp_path)


def test_exactly_one_origin_and_a_seed_that_is_one():
    with pytest.raises(UserError, match="corpus: give exactly one of sources, dataset and path, not none"):
        check_corpus(CorpusConfig(name="x"))
    for seed in (-5, 2**32):
        with pytest.raises(UserError, match=f"^corpus.seed={seed}: use 0 to 4294967295$"):
            CorpusConfig(name="x", seed=seed)
    source = SourceConfig(reader="pythn", package="x", version="1", sha256="", licence="none")
    with pytest.raises(UserError, match=r"^corpus.sources.a.reader=pythn: known are wiki_summaries"):
        check_corpus(CorpusConfig(name="x", sources={"a": source}))
