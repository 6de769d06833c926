"""Finds a short readable description of a latent, as 'the word before is one of: of, in'.

A position of a text has a few readable attributes (the token, the word so far, the word before, …). A description
names one attribute and at most `most` of its values, and says that the latent fires where the attribute has one of
them. Shape suffixes: N positions, in the order of the text.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FEWEST_HITS = 3  # firings at a value before it may be named: one or two say nothing about other text
Codes = NDArray[np.int64]  # [N], a number for each value of an attribute
Fires = NDArray[np.bool_]  # [N]


@dataclass(frozen=True)
class Attribute:
    """A readable property of positions: at position i its value is `values[codes[i]]`."""

    codes: Codes
    values: list[str]


@dataclass(frozen=True)
class Description:
    """'`attribute` is one of `values`'."""

    attribute: str
    codes: list[int]
    values: list[str]

    def predicts(self, attributes: Mapping[str, Attribute], part: slice) -> Fires:
        """Where in this part of the text the latent should fire."""
        return np.isin(attributes[self.attribute].codes[part], self.codes)

    def __str__(self) -> str:
        return f"{self.attribute} is one of: {', '.join(map(repr, self.values))}"


def agreement(predicted: Fires, fires: Fires) -> dict[str, float]:
    """How well predicted and true firings agree.

    `mcc` is Matthews' correlation: 1 for the same; 0 for chance, whatever the density, and where one is constant.
    """
    tp = int((predicted & fires).sum())
    fp, fn = int(predicted.sum()) - tp, int(fires.sum()) - tp
    tn = len(fires) - tp - fp - fn
    precision, recall = _ratio(tp, tp + fp), _ratio(tp, tp + fn)
    return {
        "mcc": float(_mcc(tp, fp, fn, tn)),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "balanced_accuracy": (recall + _ratio(tn, tn + fp)) / 2,
        "precision": precision,
        "recall": recall,
    }


def describe(attributes: Mapping[str, Attribute], fires: Fires, part: slice, most: int) -> Description:
    """The description that agrees best with `fires` in this part of the text.

    Values of one attribute exclude each other, so their counts add up: the best next value is added while it helps.
    """
    best, best_mcc = Description(next(iter(attributes)), [], []), -1.0
    for name, attribute in attributes.items():
        codes, mcc = _best_codes(attribute.codes[part], fires[part], most)
        if mcc > best_mcc:
            best, best_mcc = Description(name, codes, [attribute.values[code] for code in codes]), mcc
    return best


def _best_codes(codes: Codes, fires: Fires, most: int) -> tuple[list[int], float]:
    values, hits = np.unique(codes[fires], return_counts=True)
    values, hits = values[hits >= FEWEST_HITS], hits[hits >= FEWEST_HITS]
    misses = np.bincount(codes)[values] - hits
    positives, negatives = int(fires.sum()), int((~fires).sum())
    chosen: list[int] = []
    tp, fp, reached = 0, 0, 0.0
    while len(chosen) < most and len(values):
        gains = _mcc(tp + hits, fp + misses, positives - tp - hits, negatives - fp - misses)
        i = int(gains.argmax())
        if gains[i] <= reached:
            break
        reached = float(gains[i])
        chosen.append(int(values[i]))
        tp, fp = tp + int(hits[i]), fp + int(misses[i])
        values, hits, misses = (np.delete(remaining, i) for remaining in (values, hits, misses))
    return chosen, reached


def _mcc(tp: ArrayLike, fp: ArrayLike, fn: ArrayLike, tn: ArrayLike) -> NDArray:
    tp, fp, fn, tn = (np.asarray(count, dtype=np.float64) for count in (tp, fp, fn, tn))
    below = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return np.where(below > 0, (tp * tn - fp * fn) / np.where(below > 0, below, 1), 0.0)


def _ratio(a: float, b: float) -> float:
    return a / b if b else 0.0


def readable_attributes(contexts: list[list[str]]) -> dict[str, Attribute]:
    """The attributes of every position of contexts, each a list of its tokens' texts. None depends on later text."""
    rows: dict[str, list[str]] = {name: [] for name in _NAMES}
    for tokens in contexts:
        word, before, last = "", "", ""
        for token in tokens:
            if begins_word(token) or not word:
                before, word = word or before, ""
            word = (word + token).strip().casefold()
            for name, value in zip(
                _NAMES, (token, word, token_class(token), last, before, f"{before} {word}"), strict=True
            ):
                rows[name].append(value)
            last = token
    return {name: _coded(values) for name, values in rows.items()}


_NAMES = ("token", "word so far", "kind of token", "token before", "word before", "word before with word so far")


def begins_word(token: str) -> bool:
    """Whether a new word begins with this token: it starts with a space, or with no letter or digit."""
    return not token[:1].isalnum()


def token_class(token: str) -> str:
    """One of a few classes that a reader recognises at once."""
    text = token.strip()
    if not text:
        return "white space"
    if text.isdigit():
        return "digits"
    if not any(character.isalnum() for character in text):
        return "punctuation"
    if not re.match(r"\s", token):
        return "inside of a word"
    return "capitalised word" if text[0].isupper() else "lower-case word"


def _coded(values: list[str]) -> Attribute:
    distinct, codes = np.unique(np.array(values, dtype=object).astype(str), return_inverse=True)
    return Attribute(codes.astype(np.int64), distinct.tolist())
