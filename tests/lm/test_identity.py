"""Which model it is: every byte that decides activations counts, and nothing else."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from saemd.errors import UserError
from saemd.lm.config import LMConfig, PackageConfig
from saemd.lm.load import lm_info, load_lm
from saemd.lm.weights import read_mlp_decoder
from tests.lm.models import WEIGHT
from tests.pipeline import add_to_snapshot

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def identify(tmp_path) -> Callable[[Path | str], str]:
    (tmp_path / "cache").mkdir()
    return lambda name: lm_info(LMConfig(name=str(name)), tmp_path / "cache").fingerprint


def edit(folder: Path, name: str, **changes: object) -> None:
    """Other values in a JSON file; size and modification time stay what they were where that is possible."""
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rank_one_edit(path: Path) -> None:
    """One MLP's matrix plus a rank-one matrix, in place: the same size, the old modification time."""
    before = path.stat()
    weights = load_file(path)
    weights[WEIGHT] += 0.01 * torch.outer(torch.randn(16), torch.randn(40))
    save_file(weights, path.with_name("edited"), {"format": "pt"})
    path.write_bytes(path.with_name("edited").read_bytes())
    path.with_name("edited").unlink()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def test_a_rank_one_edit_is_another_model(folder, identify):
    before = identify(folder)
    rank_one_edit(folder / "model.safetensors")
    assert identify(folder) != before


def test_a_copy_is_the_same_model_however_it_is_named(folder, tmp_path, identify, monkeypatch):
    shutil.copytree(folder, tmp_path / "home" / "copy")
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    names = [folder, f"{folder}/", tmp_path / "link", "model", "./model", "home/../model", "~/copy"]
    assert len({identify(name) for name in names}) == 1


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("config.json", {"rms_norm_eps": 0.1}),
        ("tokenizer_config.json", {"bos_token": None}),
        ("tokenizer_config.json", {"eos_token": "<unk>"}),
        ("tokenizer.json", {"pre_tokenizer": {"type": "WhitespaceSplit"}}),
    ],
)
def test_settings_and_tokenizer_count(name, changes, folder, identify):
    before = identify(folder)
    edit(folder, name, **changes)
    assert identify(folder) != before


@pytest.mark.parametrize(
    "name", ["special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model"]
)
def test_every_file_of_a_tokenizer_counts(name, folder, identify):
    before = identify(folder)
    (folder / name).write_text("{}")
    other = identify(folder)
    (folder / name).write_text("{ }")
    assert len({before, other, identify(folder)}) == 3


def test_what_decides_no_activation_does_not_count(folder, identify):
    before = identify(folder)
    for name in ("README.md", "chat_template.jinja", "generation_config.json", "training_args.bin", "x.safetensors"):
        (folder / name).write_text("{}")
    torch.save({}, folder / "pytorch_model.bin")  # never read, since there are safetensors
    assert identify(folder) == before


def test_every_shard_and_the_index_count(folder, tmp_path, identify):
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="8KB")
    before = identify(folder)
    shard = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"][WEIGHT]
    rank_one_edit(folder / shard)
    edited = identify(folder)
    edit(folder, "model.safetensors.index.json", metadata={})
    assert len({before, edited, identify(folder)}) == 3


def test_one_file_comes_before_shards_for_every_reader(folder, tmp_path, identify):
    """As in transformers: a mirrored start out of stale shards would be another model's."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    before = identify(folder)
    with torch.no_grad():
        model.get_parameter(WEIGHT).mul_(2)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="8KB")
    for path in (tmp_path / "sharded").glob("model*"):
        shutil.copy(path, folder)
    assert identify(folder) == before
    config = LMConfig(name=str(folder))
    loaded = load_lm(config, tmp_path).model.get_parameter(WEIGHT)
    assert torch.equal(read_mlp_decoder(config, tmp_path, 1).weight, loaded)


@pytest.mark.parametrize("place", ["snapshots/step100", f"snapshots/{COMMIT}", f"models--a--b/snapshots/{COMMIT}"])
def test_a_folder_is_known_by_its_content_whatever_its_parent_is_called(place, folder, tmp_path, identify):
    before = identify(folder)
    shutil.copytree(folder, tmp_path / place)
    assert identify(tmp_path / place) == before
    rank_one_edit(tmp_path / place / "model.safetensors")
    assert identify(tmp_path / place) != before


@pytest.fixture
def snapshot(folder, tmp_path, monkeypatch) -> Path:
    """A complete model in the hub's cache; the hub returns that folder."""
    made = tmp_path / "hub" / "models--owner--model" / "snapshots" / COMMIT
    for file in folder.iterdir():
        add_to_snapshot(made, file)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **kwargs: str(made))
    return made


def test_a_revision_of_the_hub_is_its_commit(snapshot, identify):
    """By id, by path, and as before, so that old caches are found."""
    assert identify("owner/model") == identify(snapshot) == "7b5626ced0e86171"
    for path in snapshot.glob("model*"):
        path.unlink()  # nothing but config.json has been fetched so far
    assert identify("owner/model") == "7b5626ced0e86171"


def test_blobs_may_be_links_to_a_store_of_all_repositories(snapshot, identify):
    for blob in (snapshot.parent.parent / "blobs").iterdir():
        store = snapshot.parents[2] / "blobs" / blob.name[:2] / ("f" * 64)
        store.parent.mkdir(parents=True)
        blob.rename(store)
        blob.symlink_to(store)
    assert identify("owner/model") == identify(snapshot) == "7b5626ced0e86171"


@pytest.mark.parametrize("how", ["written through the link", "in the place of the link", "a link elsewhere"])
@pytest.mark.parametrize("name", ["tokenizer_config.json", "model.safetensors"])
def test_a_revision_that_was_edited_is_not_the_hubs(how, name, snapshot, folder, tmp_path, identify):
    before = identify("owner/model")
    if name == "model.safetensors":
        rank_one_edit(folder / name)
    else:
        edit(folder, name, bos_token=None)
    if how == "written through the link":
        (snapshot / name).write_bytes((folder / name).read_bytes())
    else:
        (snapshot / name).unlink()
        (snapshot / name).symlink_to(folder / name)
        if how == "in the place of the link":
            (snapshot / name).unlink()
            shutil.copy(folder / name, snapshot)
    with pytest.raises(UserError, match=f"^lm.name=owner/model: .*{name} was changed in the hub's cache: delete it"):
        identify("owner/model")
    assert identify(snapshot) == identify(folder) != before


def test_a_hub_cache_without_links_is_taken_at_its_word(folder, tmp_path, identify, monkeypatch):
    plain = tmp_path / "hub" / "models--owner--model" / "snapshots" / COMMIT
    shutil.copytree(folder, plain)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **kwargs: str(plain))
    assert identify("owner/model") == "7b5626ced0e86171"


def test_packages_are_their_pins(tmp_path):
    """As before, so that old caches are found."""
    from saemd.lm.identity import fingerprint

    packages = [PackageConfig("llm-x", "0.1.2", "ab" * 32, ["x/y.gguf"])]
    assert fingerprint(LMConfig("x", packages=packages), tmp_path) == "7a1265cfc8259087"


@pytest.mark.parametrize("kind", ["a local folder", "a packaged model"])
def test_a_revision_of_what_has_none_is_refused(kind, folder, tmp_path):
    packages = [PackageConfig("llm-x", "0.1.2", "ab" * 32, ["x/y.gguf"])] if kind == "a packaged model" else []
    config = LMConfig(name=str(folder), revision="step1000", packages=packages)
    calls = (
        lambda: lm_info(config, tmp_path),
        lambda: load_lm(config, tmp_path),
        lambda: read_mlp_decoder(config, tmp_path, 1),
    )
    for call in calls:
        with pytest.raises(UserError, match=f"^lm.revision=step1000: {re.escape(str(folder))} is {kind}"):
            call()


def test_digests_are_kept_below_cache_root(folder, tmp_path, identify, monkeypatch):
    monkeypatch.setattr("saemd.digests._SETTLED_SECONDS", -1.0)
    identify(folder)
    kept = json.loads((tmp_path / "cache" / "digests.json").read_text())
    assert {Path(name).name for name in kept} >= {"config.json", "model.safetensors", "tokenizer.json"}
