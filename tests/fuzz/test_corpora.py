"""Damaged text files in every form: refused in one line, or read as what their bytes now say, never a traceback."""

from __future__ import annotations

import gzip
from pathlib import Path

import zstandard
from hypothesis import given
from hypothesis import strategies as st

from saemd.corpus.files import check_files, read_files
from tests.corpus.forms import FORMS, TEXTS, lines
from tests.fuzz.mutations import damaged_bytes, few, refused
from tests.fuzz.places import emptied

SMALL = {name: form() for name, form in FORMS.items()}
CHECKED = {"a.jsonl.zst": zstandard.ZstdCompressor(write_checksum=True).compress, "a.jsonl.gz": gzip.compress}


def read(path: Path) -> list[str]:
    return sorted(read_files(path, "text", 0))


@few(80)
@given(data=st.data())
def test_bytes_of_a_file(data, tmp_path_factory):
    name = data.draw(st.sampled_from(sorted(SMALL)))
    path = emptied(tmp_path_factory, "corpus") / name
    path.write_bytes(data.draw(damaged_bytes(SMALL[name])))
    refused(lambda: check_files(path, "text"))
    refused(lambda: read(path))


@few(60)
@given(data=st.data())
def test_a_compressed_file_with_a_checksum_is_never_read_wrong(data, tmp_path_factory):
    """gzip has one always, zstd where it was asked for: what is read is the text, or the file is refused."""
    name = data.draw(st.sampled_from(sorted(CHECKED)))
    path = emptied(tmp_path_factory, "compressed") / name
    content = CHECKED[name](lines(TEXTS[:40]))
    place, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
    found: list[list[str]] = []
    if refused(lambda: found.append(read(path))) is None:
        assert found == [sorted(text for text in TEXTS[:40] if text)]
