"""Interpretability without a judge: descriptions against exhaustive search, and latents of known meaning."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saemd.errors import UserError
from saemd.quality.bench import Bench
from saemd.quality.descriptions import Attribute, agreement, begins_word, describe, readable_attributes, token_class
from saemd.quality.no_judge import NO_JUDGE, NoJudgeSettings, described, read_text
from saemd.quality.score import Outcome, Subject
from saemd.sae import JumpReLUSAE
from tests.quality.world import CONTEXT, D

SETTINGS = NoJudgeSettings(tokens=40 * CONTEXT, n_latents=20, fewest_firings=5)


def test_words_and_kinds_are_read_as_a_person_reads_them():
    found = readable_attributes([["The", " Ber", "lin", " of", ",", " 12"]])
    read = {name: [attribute.values[code] for code in attribute.codes] for name, attribute in found.items()}
    assert read["token"] == ["The", " Ber", "lin", " of", ",", " 12"]
    assert read["word so far"] == ["the", "ber", "berlin", "of", ",", "12"]
    assert read["word before"] == ["", "the", "the", "berlin", "of", ","]
    assert read["token before"] == ["", "The", " Ber", "lin", " of", ","]
    assert read["word before with word so far"][3] == "berlin of"
    assert read["kind of token"][1:] == [
        "capitalised word", "inside of a word", "lower-case word", "punctuation", "digits",
    ]  # fmt: skip
    assert token_class("\n\n") == "white space"
    assert [begins_word(token) for token in (" a", "a", "-", "")] == [True, False, True, True]


def test_nothing_is_read_across_contexts():
    found = readable_attributes([[" a", " b"], [" c"]])
    before = found["word before"]
    assert [before.values[code] for code in before.codes] == ["", "a", ""]


def test_the_figures_are_those_of_their_definitions():
    """Matthews' correlation is Pearson's of two yes-or-no series."""
    draw = np.random.default_rng(0)
    said, fires = draw.random(500) < 0.3, draw.random(500) < 0.2
    fires[:60] = said[:60]
    found = agreement(said, fires)
    assert found["mcc"] == pytest.approx(np.corrcoef(fires, said)[0, 1])
    precision, recall = fires[said].mean(), said[fires].mean()
    assert (found["precision"], found["recall"]) == (pytest.approx(precision), pytest.approx(recall))
    assert found["f1"] == pytest.approx(2 / (1 / precision + 1 / recall))
    assert found["balanced_accuracy"] == pytest.approx((recall + (~said)[~fires].mean()) / 2)
    assert agreement(np.zeros(9, bool), fires[:9])["mcc"] == 0  # a description of nothing explains nothing


def test_a_description_is_the_best_of_all_of_its_length():
    """Against every set of at most two values of every attribute."""
    draw = np.random.default_rng(1)
    where = slice(0, 300)
    for seed in range(5):
        codes = {name: np.random.default_rng(seed + i).integers(0, 6, 400) for i, name in enumerate("ab")}
        attributes = {name: Attribute(found, [str(i) for i in range(6)]) for name, found in codes.items()}
        fires = np.isin(codes["b"], [1, 4]) ^ (draw.random(400) < 0.15)
        scores = {
            (name, chosen): agreement(np.isin(codes[name][where], chosen), fires[where])["mcc"]
            for name in "ab"
            for n in (1, 2)
            for chosen in itertools.combinations(range(6), n)
        }
        found = describe(attributes, fires, where, most=2)
        assert (found.attribute, tuple(sorted(found.codes))) == max(scores, key=scores.__getitem__)
        assert str(found).startswith("b is one of: ")


def measure(bench: Bench, sae: JumpReLUSAE, settings: NoJudgeSettings = SETTINGS) -> Outcome:
    subject = Subject("some", 4, 0, None, D, Path("nowhere"), Path("nowhere"), lambda: sae)
    ((_, outcome),) = NO_JUDGE.measure(bench, settings, [subject])
    return outcome


def latents_like(rows: torch.Tensor, threshold: float) -> JumpReLUSAE:
    """Latents that fire within a distance of `rows` [F, D]: cos above `threshold`, for activations of unit norm."""
    sae = JumpReLUSAE(rows.shape[1], len(rows))
    with torch.no_grad():
        sae.W_enc.copy_(rows.T)
        sae.W_dec.copy_(rows / rows.norm(dim=1, keepdim=True))
        sae.threshold.fill_(threshold)
    return sae


def test_latents_that_follow_the_token_are_found_and_shifted_ones_are_not(bench):
    """Centred on the mean activation of a token: here the residual stream tells tokens apart."""
    text = read_text(bench, SETTINGS.tokens)
    token = text.attributes["token"]
    x = text.x - text.x.mean(0)
    rows, thresholds = [], []
    for code in np.unique(token.codes):
        own = torch.from_numpy(token.codes == code)
        row = torch.nn.functional.normalize(torch.linalg.lstsq(x, own.float()[:, None]).solution[:, 0], dim=0)
        rows.append(row)
        thresholds.append((text.x @ row)[own].quantile(0.1))
    sae = latents_like(torch.stack(rows), 0.0)
    with torch.no_grad():
        sae.threshold.copy_(torch.stack(thresholds).clamp(min=1e-6))
    found = measure(bench, sae)
    assert found.status == "done", found.reason
    assert found.value == found.values["mcc"]
    assert (found.value or 0) > 0.6
    assert abs(found.values["mcc_shifted"] or 0) < 0.2
    assert found.std is not None
    assert "is one of" in found.details["descriptions"][0]["fires_where"]
    assert measure(bench, sae).values == found.values  # seeded


def test_a_latent_that_fires_anywhere_is_not_explained(bench):
    text = read_text(bench, SETTINGS.tokens)
    anywhere = np.random.default_rng(0).random(len(text.x)) < 0.2
    _, score = described(text, anywhere, most=10)
    assert abs(score["mcc"]) < 0.15


def test_too_few_latents_are_not_applicable_and_bad_settings_one_line(bench):
    dead = latents_like(torch.eye(D), 1e9)
    outcome = measure(bench, dead)
    assert (outcome.status, outcome.value) == ("not applicable", None)
    assert outcome.reason == f"0 of {D} latents fire 5 times in each half of the text; two are wanted"
    bad: list[tuple[dict[str, Any], str]] = [
        ({"tokens": 10**6}, r"autointerp_no_judge.tokens=1000000: the held-out documents of files give [\d,]+ tokens"),
        ({"tokens": 10}, "autointerp_no_judge.tokens=10: use at least four contexts"),
        ({"n_latents": 0}, "autointerp_no_judge.n_latents=0: use at least 1"),
    ]
    for changed, message in bad:
        with pytest.raises(UserError, match=message):
            measure(bench, dead, NoJudgeSettings(**changed))
