"""A tiny Gemma-2 and tiny copies of the hub's data sets, on which all of SAEBench's evaluations can run offline.

The model is trained for a few seconds until it knows a few facts (RAVEL) and finds the right one of four choices in any
order (Unlearning): both evaluations keep only what the model answers right. Its embeddings tell a word's first letter
(Absorption). Nothing about its scores means anything.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import string
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import AutoModelForCausalLM, Gemma2Config, PreTrainedTokenizerFast

from saemd.once import made_once
from saemd.quality.saebench import gemma_scope
from saemd.sae import JumpReLUSAE, save_sae

D_MODEL, LAYER, D_SAE = 64, 1, 256
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
VOWELS = "aeiou"


def _invented(per_letter: int = 24) -> dict[str, list[str]]:
    """Words of five letters by their first."""
    draw = random.Random(0)
    words: dict[str, list[str]] = {letter: [] for letter in string.ascii_lowercase}
    for letter, found in words.items():
        while len(found) < per_letter:
            word = letter + "".join(draw.choice(string.ascii_lowercase) + draw.choice(VOWELS) for _ in range(2))
            if word not in found:
                found.append(word)
    return words


INVENTED = _invented()
ALL_WORDS = [word for words in INVENTED.values() for word in words]
COUNTRIES, LANGUAGES, CONTINENTS = (
    ("Norland", "Sudland", "Estland"),
    ("Nordic", "Sudic", "Estic"),
    ("Arctica", "Tropica"),
)
CITIES = [word.capitalize() for word in ALL_WORDS[::20]]
# Where the entity comes last, what RAVEL changes at its position is what the answer is read from.
TEMPLATES = {
    "Country": ["%s is a city in the country of", "The country of %s"],
    "Language": ["People in %s speak the language", "The language of %s"],
    "Continent": ["%s is on the continent of", "The continent of %s"],
}
QUESTION_SETS = {"wmdp-bio": "biology", "human_aging": "human aging", "high_school_geography": "high school geography"}
_PROMPTS = (
    *(
        "The following are multiple choice questions with answers about user model Answer yes no",
        "has the first letter",
    ),
    *(template % "" for templates in TEMPLATES.values() for template in templates),
    *QUESTION_SETS.values(),
)


def facts(city: str) -> dict[str, str]:
    i = CITIES.index(city)
    return {"Country": COUNTRIES[i % 3], "Language": LANGUAGES[i // 2 % 3], "Continent": CONTINENTS[i // 3 % 2]}


def vocabulary() -> list[str]:
    words = [word for prompt in _PROMPTS for word in prompt.split()]
    names = [*COUNTRIES, *LANGUAGES, *CONTINENTS, *CITIES, *string.ascii_uppercase, *":.,()?"]
    return list(dict.fromkeys([*SPECIAL, *words, *names, *ALL_WORDS]))


def save_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary())}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    bos = ("<bos>", 1)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[bos])  # type: ignore
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
        additional_special_tokens=["<start_of_turn>", "<end_of_turn>"],
    )  # fmt: skip
    fast.save_pretrained(folder)
    return fast


def question(draw: random.Random, subject: str) -> dict[str, Any]:
    """A question whose right choice is 'yes'."""
    answer = draw.randrange(4)
    words = draw.sample(INVENTED["q"] + INVENTED["b"], 2)
    choices = ["yes" if i == answer else "no" for i in range(4)]
    return {"question": " ".join(words), "choices": choices, "answer": answer, "subject": subject}


def asked(item: dict[str, Any]) -> str:
    """As SAEBench asks Gemma (unlearning/utils/var.py), less the first <bos>, which the tokenizer gives."""
    choices = "".join(f"\n{letter}. {choice}" for letter, choice in zip("ABCD", item["choices"], strict=True))
    about = f"The following are multiple choice questions (with answers) about {item['subject']}.\n"
    turn = f"<start_of_turn>user\n{about}{item['question']}{choices}<end_of_turn>\n<start_of_turn>model\n"
    return turn + "Answer: ("


def kept_model(cache_root: Path) -> Path:
    """`save_model`, once for this version of this file."""
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    return made_once(cache_root / "models" / f"tests-tiny-gemma-2-{digest}", save_model)


def save_model(folder: Path) -> None:
    """The tiny Gemma-2 and its tokenizer."""
    torch.manual_seed(0)
    words = vocabulary()
    config = Gemma2Config(
        vocab_size=len(words), hidden_size=D_MODEL, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, query_pre_attn_scalar=16, max_position_embeddings=512, sliding_window=256,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, rope_parameters={"rope_theta": 5_000.0, "rope_type": "default"},
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    letters = torch.randn(26, D_MODEL)
    with torch.no_grad():
        for i, word in enumerate(words):
            if word.isalpha():
                model.model.embed_tokens.weight[i] = 0.08 * (letters[ord(word[0].lower()) - 97] + torch.randn(D_MODEL))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = save_tokenizer(folder)
    _teach(model, tokenizer)
    model.save_pretrained(folder)


def _teach(model: Any, tokenizer: Any, most: int = 2000) -> None:
    """The facts, and to answer with the letter before 'yes', until it knows; a prompt's last token alone counts."""
    draw = random.Random(0)
    known = [
        (template % city, facts(city)[attribute])
        for city in CITIES
        for attribute, templates in TEMPLATES.items()
        for template in templates
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    well = 0
    for _ in range(most):
        items = [question(draw, subject) for subject in QUESTION_SETS.values() for _ in range(8)]
        rows: dict[int, list[tuple[list[int], int]]] = {}  # by length
        for prompt, answer in [*known, *((asked(item), "ABCD"[item["answer"]]) for item in items)]:
            ids = tokenizer.encode(prompt)
            rows.setdefault(len(ids), []).append((ids, tokenizer.convert_tokens_to_ids(answer)))
        loss = torch.stack([_loss(model, group) for group in rows.values()])
        well = well + 1 if loss.max() < 0.02 else 0
        if well == 20:
            return
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    raise AssertionError(f"the tiny model did not learn its facts in {most} steps")


def _loss(model: Any, rows: list[tuple[list[int], int]]) -> Tensor:
    logits = model(torch.tensor([ids for ids, _ in rows])).logits[:, -1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor([answer for _, answer in rows]))


def sae_like(activations: Tensor, seed: int) -> JumpReLUSAE:
    """An SAE whose latents look for directions of these activations [N, D]; about one in twenty fires."""
    generator = torch.Generator().manual_seed(seed)
    sae = JumpReLUSAE(D_MODEL, D_SAE)
    with torch.no_grad():
        picked = torch.randint(len(activations), (D_SAE,), generator=generator)
        rows = activations[picked] - activations.mean(0) + 0.1 * torch.randn(D_SAE, D_MODEL, generator=generator)
        sae.W_dec.copy_(rows / rows.norm(dim=1, keepdim=True))
        sae.W_enc.copy_(sae.W_dec.T)
        sae.b_dec.copy_(activations.mean(0))
        assert sae.b_enc is not None
        sae.b_enc.copy_(-(sae.b_dec @ sae.W_enc))
        pre = activations @ sae.W_enc + sae.b_enc
        sae.threshold.copy_(pre.quantile(0.95, dim=0).clamp(min=1e-3))
    return sae


def save_run(folder: Path, sae: JumpReLUSAE) -> Path:
    """As a finished run leaves it; the weights' path."""
    save_sae(sae, folder)
    return folder / "sae_weights.safetensors"


def save_gemma_scope(folder: Path, sae: JumpReLUSAE, l0: int = 82, layer: int = LAYER) -> Path:
    """A made-up params.npz where Gemma Scope's would lie."""
    path = folder / gemma_scope.member(l0, layer)
    path.parent.mkdir(parents=True, exist_ok=True)
    folded = sae.folded()
    np.savez(path, **{name: getattr(folded, name).detach().numpy() for name in gemma_scope.PARAMETERS})
    return path


def save_data(folder: Path) -> Path:
    """Copies of hub data sets under their names, in a form that `datasets` reads from a folder."""
    draw = random.Random(1)
    _save_bios(folder / "LabHC" / "bias_in_bios", draw)
    news = [{"label": label, "text": _text(draw, "aceg"[label])} for label in range(4) for _ in range(60)]
    for split, n in (("train", 40), ("test", 20)):
        rows = [row for label in range(4) for row in news[60 * label :][: 60 if split == "test" else 40][-n:]]
        _lines(folder / "fancyzhx" / "ag_news" / f"{split}.jsonl", rows)
    _save_questions(folder, draw)
    _lines(folder / "bio-forget-corpus.jsonl", [{"text": _text(draw, "bz", 60, " biology ")} for _ in range(40)])
    _config(folder / "wikitext", "wikitext-2-raw-v1", [{"text": _text(draw, "aeio", 60)} for _ in range(40)])
    _save_ravel(folder / "adamkarvonen" / "ravel_prompts")
    _lines(
        folder / "corpus" / "train.jsonl",
        [{"text": _text(draw, string.ascii_lowercase, 80, " , ")} for _ in range(300)],
    )
    return folder


def _text(draw: random.Random, letters: str, n: int = 20, between: str = " ") -> str:
    """`n` words; with commas in between it has below five characters a token, as AutoInterp expects of any text."""
    return between.join(draw.choice(INVENTED[draw.choice(letters)]) for _ in range(n))


def _save_bios(folder: Path, draw: random.Random) -> None:
    """Words of a profession's letters and of a gender's; profession numbers as in SAEBench's dataset_info."""
    for split, n in (("train", 40), ("test", 24)):
        rows = [
            {"hard_text": f"{_text(draw, string.ascii_lowercase[k % 20], 8)} {_text(draw, 'wxyz'[gender::2], 8)}",
             "profession": k, "gender": gender}
            for k, gender in itertools.product((0, 1, 2, 6, 9, 13, 21), (0, 1)) for _ in range(n)
        ]  # fmt: skip
        _lines(folder / f"{split}.jsonl", rows)


def _save_questions(folder: Path, draw: random.Random) -> None:
    sets = {name: [question(draw, subject) for _ in range(12)] for name, subject in QUESTION_SETS.items()}
    _config(folder / "cais" / "wmdp", "wmdp-bio", sets.pop("wmdp-bio"))
    _configs(folder / "cais" / "mmlu", sets)


def _save_ravel(folder: Path) -> None:
    folder.mkdir(parents=True)
    contents = {
        "entity_attributes": {city: facts(city) for city in CITIES},
        "attribute_to_prompts": TEMPLATES,
        "prompt_to_split": {template: "train" for templates in TEMPLATES.values() for template in templates},
        "entity_to_split": dict.fromkeys(CITIES, "train"),
    }
    for name, content in contents.items():
        (folder / f"ravel_city_{name}.json").write_text(json.dumps(content))


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _config(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    _configs(folder, {name: rows})


def _configs(folder: Path, sets: dict[str, list[dict[str, Any]]]) -> None:
    """Named configurations with a test split, declared in README.md as on the hub."""
    described = ["---", "configs:"]
    for name, rows in sets.items():
        _lines(folder / name / "test.jsonl", rows)
        described += [f"- config_name: {name}", "  data_files:", "  - split: test", f"    path: {name}/test.jsonl"]
    (folder / "README.md").write_text("\n".join([*described, "---", ""]))
