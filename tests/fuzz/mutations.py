"""How the fuzz tests damage files and values, and what they demand of whoever reads them."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from saemd.errors import UserError

BOUNDED = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}
DEEP = "[" * 2000 + "]" * 2000


def few(examples: int) -> settings:
    """Settings of a test: so many examples, always the same ones."""
    return settings(max_examples=examples, **BOUNDED)  # pyright: ignore[reportArgumentType]


@st.composite
def damaged_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """`content` after a few bits were flipped, or a piece of it cut off, blanked, doubled or replaced."""
    size = len(content)
    at = st.integers(0, max(size - 1, 0))
    match draw(st.sampled_from(("bit", "bit", "bits", "cut", "blank", "double", "text", "empty"))):
        case "bit":
            return _flipped(content, draw(at), draw(st.integers(0, 7)))
        case "bits":
            for place, bit in draw(st.lists(st.tuples(at, st.integers(0, 7)), min_size=2, max_size=8)):
                content = _flipped(content, place, bit)
            return content
        case "cut":
            return content[: draw(at)]
        case "blank":
            first, length = draw(at), draw(st.integers(1, 600))
            return content[:first] + bytes(min(length, size - first)) + content[first + length :]
        case "double":
            first, length = draw(at), draw(st.integers(1, 60))
            return content[:first] + content[first : first + length] + content[first:]
        case "text":
            first, word = draw(at), draw(st.sampled_from(("NaN", "1e999", "-1", "9" * 5000, DEEP, "\0", '"', "null")))
            return content[:first] + word.encode() + content[first + draw(st.integers(0, 8)) :]
        case _:
            return draw(st.sampled_from((b"", b"\n", b"null", b"[]", b"{}", b"\xff\xfe")))


def _flipped(content: bytes, place: int, bit: int) -> bytes:
    if not content:
        return content
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


JUNK: st.SearchStrategy[Any] = st.sampled_from(
    (None, True, False, -1, 0, 1.5, 10**400, -(10**30), float("nan"), float("inf"), "", "x", "../x", [], [None], {},
     {"x": [1]}, [[[[[[[[]]]]]]]], "9" * 400, [1, "a", None])
)  # fmt: skip


@st.composite
def damaged_value(draw: st.DrawFn, value: Any) -> Any:
    """A tree of dictionaries and lists of which a few nodes are removed, added, or of another type or size."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(value))
        if not places:
            return draw(JUNK)
        parent, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(("replace", "replace", "remove", "add"))):
            case "replace":
                parent[key] = copy.deepcopy(draw(JUNK))
            case "remove":
                del parent[key]
            case _ if isinstance(parent, dict):
                parent[draw(st.sampled_from(("", "x", "format", "checksum")))] = copy.deepcopy(draw(JUNK))
            case _:
                parent.insert(key, copy.deepcopy(draw(JUNK)))
    return value


def _places(value: Any) -> Any:
    """Every (container, key) of a tree."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in list(children):
        yield value, key
        yield from _places(child)


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def refused(read: Callable[[], Any]) -> UserError | None:
    """The one clear line with which `read` refuses what it is given; None where it reads it.

    Any other exception passes, and fails the test.
    """
    found = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
    except UserError as error:
        found = error
    if found is not None:
        assert 0 < len(str(found).strip()) < 2000, found
        assert "\n" not in str(found), found
    return found


def same_or_refused(
    read: Callable[[], Any], expected: Any, equal: Callable[[Any, Any], bool] = lambda a, b: a == b
) -> None:
    """`read` refuses, or returns exactly what the undamaged file holds."""
    results: list[Any] = []
    if refused(lambda: results.append(read())) is None:
        assert equal(results[0], expected), f"read {results[0]!r:.2000}, not {expected!r:.2000}"
