"""Models that cannot be read, or only by running code of theirs: one line, early, and nothing runs."""

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, OPTConfig

from saemd.activations.config import ActivationsConfig
from saemd.activations.harvest.open import describe, ensure_cache
from saemd.corpus.config import CorpusConfig
from saemd.errors import UserError
from saemd.lm.config import LMConfig
from saemd.lm.load import lm_info, load_lm, residual_stream
from saemd.lm.weights import read_mlp_decoder
from tests.lm.models import WEIGHT
from tests.ordinary_user import read_only
from tests.pipeline import WORDS, save_jsonl, save_model


def refused(call: Callable[[], object], match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        call()
    assert "\n" not in str(error.value)
    assert "\x1b" not in str(error.value)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("{", r"^lm.name=.*config.json is not JSON \(.*copy the file anew"),
        ("", r"^lm.name=.*config.json is not JSON"),
        ("[]", r"^lm.name=.*config.json has no model_type; name a saved transformers model"),
        ('{"hidden_size": 16}', r"^lm.name=.*config.json has no model_type"),
        ('{"model_type": "wonder"}', r"^lm: the architecture wonder is not known here; known are gemma"),
        ('{"model_type": "t5"}', r"^lm: the architecture t5 is not known here"),
        ('{"model_type": "llama", "hidden_size": "a"}', r"^lm.name=.*cannot read .*config.json \(.*'hidden_size'"),
        ('{"model_type": "llama", "transformers_weights": "x.safetensors"}', r"^lm.name=.*asks for other weights"),
    ],
)
def test_a_configuration_that_is_none(content, line, folder, tmp_path):
    (folder / "config.json").write_text(content)
    config = LMConfig(name=str(folder))
    for call in (lambda: lm_info(config, tmp_path), lambda: load_lm(config, tmp_path)):
        refused(call, line)


def test_an_adapter_is_not_taken_for_its_model(folder, tmp_path):
    (folder / "adapter_config.json").write_text("{}")
    refused(lambda: lm_info(LMConfig(name=str(folder)), tmp_path), "^lm.name=.*holds an adapter; merge it")


@pytest.mark.parametrize("name", ["model.gguf", "./model.gguf", "~nobody-of-this-name/model", "/" + "a" * 300])
def test_a_name_that_is_no_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    refused(lambda: lm_info(LMConfig(name=name), tmp_path), rf"^lm.name={re.escape(name)}: .*saved transformers model$")


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.sprung,)


@pytest.mark.parametrize("form", ["beside tensors", "torch's old form", "a plain pickle", "a shard"])
def test_a_pickle_runs_nothing(form, folder, tmp_path):
    trap, weights = Trap(tmp_path / "sprung"), load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if form == "a plain pickle":
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(trap))
    elif form == "a shard":
        torch.save({**weights, "trap": trap}, folder / "pytorch_model-00001-of-00001.bin")
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "pytorch_model-00001-of-00001.bin")}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    else:
        old = form == "torch's old form"
        torch.save({**weights, "trap": trap}, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not old)
    config = LMConfig(name=str(folder))
    for call in (lambda: load_lm(config, tmp_path), lambda: read_mlp_decoder(config, tmp_path, 1)):
        refused(call, r"^lm.name=.*holds more than tensors and could run code; take safetensors instead$")
    assert not (tmp_path / "sprung").exists()
    assert [path for path in (tmp_path / "models").iterdir() if path.is_dir()] == []
    (folder / "pytorch_model-00001-of-00001.bin" if form == "a shard" else folder / "pytorch_model.bin").unlink()
    trap.sprung.touch()  # the trap itself works
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung again")))
    assert (tmp_path / "sprung again").exists()


@pytest.mark.parametrize("kind", ["llama", "wonder"])
def test_code_in_the_folder_never_runs(kind, folder, tmp_path, monkeypatch):
    """Neither unasked, nor when a user at a terminal would answer transformers' question with yes."""
    (folder / "evil.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'sprung')!r}).touch()\n")
    names = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    edit(folder / "config.json", auto_map=names, model_type=kind)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    config = LMConfig(name=str(folder))
    if kind == "wonder":
        refused(lambda: lm_info(config, tmp_path), "^lm: the architecture wonder is not known here")
    else:  # transformers' own code runs
        assert type(load_lm(config, tmp_path).model).__module__.startswith("transformers.")
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", "evil.T"]}, tokenizer_class="Evil")
    edit(folder / "config.json", model_type="llama")
    refused(lambda: load_lm(config, tmp_path), "^lm.name=.*cannot read the tokenizer in .*custom code")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_broken_tokenizer(name, folder, tmp_path):
    (folder / name).write_text("{")
    refused(lambda: load_lm(LMConfig(name=str(folder)), tmp_path), "^lm.name=.*cannot read the tokenizer in")


def test_weights_of_another_shape(folder, tmp_path):
    edit(folder / "config.json", hidden_size=32)
    config = LMConfig(name=str(folder))
    refused(
        lambda: load_lm(config, tmp_path), r"^lm.name=.*has shape \[64, 16\] in its files and \[64, 32\] by its config"
    )
    refused(
        lambda: read_mlp_decoder(config, tmp_path, 1),
        r"down_proj.weight is torch.float32 \[16, 40\], not floats \[32, 40\]",
    )


def test_quantised_weights_start_no_sae(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    weights[WEIGHT] = weights[WEIGHT].to(torch.int8)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    refused(
        lambda: read_mlp_decoder(LMConfig(name=str(folder)), tmp_path, 1), r"is torch.int8 .*take the model unquantised"
    )


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("damage", ["a missing shard", "a file outside", "no JSON", "no map", "a map of numbers"])
def test_a_broken_index(kind, damage, folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    torch.save(weights, tmp_path / "outside.bin")
    shutil.copy(tmp_path / f"outside.{kind}", folder / f"shard.{kind}")
    index = folder / {"safetensors": "model.safetensors.index.json", "bin": "pytorch_model.bin.index.json"}[kind]
    file = {"a missing shard": f"gone.{kind}", "a file outside": f"../outside.{kind}"}.get(damage, f"shard.{kind}")
    content: Any = {"metadata": {}, "weight_map": {**dict.fromkeys(weights, f"shard.{kind}"), WEIGHT: file}}
    content = {"no map": {}, "a map of numbers": {"weight_map": 3}}.get(damage, content)
    index.write_text("{" if damage == "no JSON" else json.dumps(content))
    line = {
        "a missing shard": rf"^lm.name=.*gone.{kind} is missing, which {index.name} lists; copy it anew",
        "a file outside": rf"^lm.name=.*{index.name} names ../outside.{kind}, which is not in its folder",
    }.get(damage, rf"^lm.name=.*{index.name} is no index of weights \(.*; copy the file anew")
    refused(lambda: lm_info(LMConfig(name=str(folder)), tmp_path), line)


LEARNED = [
    GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_inner=40, n_positions=48,
               bos_token_id=0, eos_token_id=1),
    OPTConfig(vocab_size=64, hidden_size=16, ffn_dim=40, num_hidden_layers=2, num_attention_heads=2,
              word_embed_proj_dim=16, max_position_embeddings=48, bos_token_id=0, eos_token_id=1, pad_token_id=2),
]  # fmt: skip


@pytest.mark.parametrize("config", LEARNED, ids=lambda config: config.model_type)
def test_a_context_longer_than_the_learned_positions_is_refused_early(config, tmp_path):
    lm, corpus = LMConfig(name=str(save_model(tmp_path / "model", config))), CorpusConfig(name="x", dataset="x/y")
    model = load_lm(lm, tmp_path).model
    describe(lm, 0, corpus, ActivationsConfig(context_length=48), tmp_path)
    assert residual_stream(model, 0, torch.full((1, 48), 5)).shape == (1, 48, 16)
    line = r"^activations.context_length=49: .* has 48 learned positions; use at most 48$"
    refused(lambda: describe(lm, 0, corpus, ActivationsConfig(context_length=49), tmp_path), line)
    with pytest.raises(IndexError):  # what it would have come to
        residual_stream(model, 0, torch.full((1, 49), 5))


def cached(lm: Path, cache_root: Path, text: Path, **changes: Any) -> Any:
    """The cache of a folder's model on a file."""
    corpus = CorpusConfig(name="files", path=str(text), heldout_fraction=0.2)
    values = {"tokens": 600, "heldout_tokens": 100, "context_length": 32, "shard_tokens": 512, **changes}
    return ensure_cache(LMConfig(name=str(lm)), 0, corpus, ActivationsConfig(**values), cache_root, accelerator="cpu")


def test_a_context_longer_than_a_rotary_model_was_trained_on_is_said(folder, tmp_path, capsys):
    text = save_jsonl(tmp_path / "text.jsonl", 100)
    cached(folder, tmp_path, text, context_length=64)
    assert "trained on" not in capsys.readouterr().err
    cached(folder, tmp_path, text, context_length=65)
    assert (
        f"activations.context_length=65 is more than the 64 positions that {folder} was trained on"
        in capsys.readouterr().err
    )


def shrink_embedding(folder: Path, rows: int) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(rows)
    model.save_pretrained(folder)


def test_a_tokenizer_with_a_larger_vocabulary_than_the_embedding_is_refused(folder, tmp_path):
    shrink_embedding(folder, 40)
    line = rf"^lm.name=.*its tokenizer gives id 40 \('{WORDS[37]}'\), its embedding has 40 rows; take the tokenizer"
    refused(lambda: cached(folder, tmp_path / "cache", save_jsonl(tmp_path / "text.jsonl", 100)), line)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix in (".bin", ".json")]


def test_added_tokens_beyond_the_embedding_count_where_text_holds_them(folder, tmp_path):
    """As in Gemma 3, whose tokenizer knows an image token that its text models have no row for."""
    shrink_embedding(folder, len(WORDS) + 3)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<image>"])
    tokenizer.save_pretrained(folder)
    text = save_jsonl(tmp_path / "text.jsonl", 200)
    assert cached(folder, tmp_path / "cache", text).n_train == 600
    with text.open("a") as file:
        file.write("".join(json.dumps({"text": f"an <image> and {word}"}) + "\n" for word in WORDS))
    line = rf"^lm.name=.*its tokenizer gives id {len(WORDS) + 3} \('<image>'\)"
    refused(lambda: cached(folder, tmp_path / "cache", text, tokens=100_000), line)


def test_an_end_token_beyond_the_embedding_is_refused(folder, tmp_path):
    shrink_embedding(folder, len(WORDS) + 3)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"eos_token": "<end>"})
    tokenizer.save_pretrained(folder)
    refused(lambda: load_lm(LMConfig(name=str(folder)), tmp_path), r"^lm.name=.*\('<end>'\), its embedding has")


def test_a_read_only_cache_root(folder, tmp_path):
    """What is finished is read without a lock; what is missing is refused before the model is loaded."""
    text, root = save_jsonl(tmp_path / "text.jsonl", 200), tmp_path / "cache"
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    made = cached(folder, root, text)
    for path in [*root.rglob(".*.lock"), *root.glob("digests.json")]:
        path.unlink()
    with read_only(root):
        again = cached(folder, root, text)
        assert (again.path, again.sample(10).shape) == (made.path, (10, 16))
        assert read_mlp_decoder(LMConfig(name=str(folder)), root, 1).weight.shape == (16, 40)
        refused(
            lambda: cached(folder, root, text, tokens=601),
            r"activations: cannot be written \(Permission denied\); mend that",
        )
    assert not list(root.rglob(".*.lock"))
