"""A flipped bit in a record, a weight, a checkpoint or a token is found; what has no checksum is read as before."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from saemd.activations.disk.manifest import read_manifest, read_progress
from saemd.activations.online.contexts import ContextStore, write_contexts
from saemd.checksums import ChecksumError, with_checksum, without_checksum
from saemd.errors import UserError
from saemd.files import DamagedFileError, read_json, read_npz, read_tensors, save_tensors, write_json
from saemd.quality.records import read_records
from saemd.runs import read_config, read_metrics, write_config
from saemd.sae import load_sae, save_sae
from saemd.training.checkpoints import load_whole
from tests.activations import caches
from tests.sae.test_jumprelu import random_sae


def flip(path: Path, place: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def replaced(path: Path, pattern: str, by: str) -> None:
    text, count = re.subn(pattern, by, path.read_text(), count=1)
    assert count == 1
    path.write_text(text)


@pytest.mark.parametrize("value", [{}, {"a": [1.5, None, {"b": "é"}], "24": 1e-300}, {24: "x", 3: "y"}])
def test_a_checksum_does_not_depend_on_the_form_of_the_file(value):
    sealed = with_checksum(value)
    for again in (json.loads(json.dumps(sealed, indent=3)), yaml.safe_load(yaml.safe_dump(sealed, sort_keys=False))):
        assert [str(key) for key in without_checksum(again)] == [str(key) for key in value]
    with pytest.raises(ChecksumError):
        without_checksum({**sealed, "more": 1})
    assert without_checksum(value) == value


@pytest.mark.parametrize("key", ["bhecksum", "checkqum", "checksu-"])
def test_flips_that_also_hit_the_key_of_the_checksum(key):
    sealed = with_checksum({"a": 1, "checkpoint_minutes": 5})
    with pytest.raises(ChecksumError):
        without_checksum({key: sealed["checksum"], "a": 3, "checkpoint_minutes": 5})


def test_a_configuration_that_was_cut_off(tmp_path):
    about = {"config": {}, "cache_fingerprint": "a", "sibling_fingerprint": "b", "start": {"W_dec": "c"}}
    write_config(tmp_path, about)
    assert read_config(tmp_path) == about
    path = tmp_path / "config.yaml"
    path.write_text(path.read_text().partition("start:")[0])
    with pytest.raises(DamagedFileError, match=r"config.yaml: differs from its checksum"):
        read_config(tmp_path)


def test_a_digit_of_a_record(tmp_path):
    path = tmp_path / "floor.json"
    write_json(path, {"mean_cosine": 0.125})
    assert read_json(path, "mend it") == {"mean_cosine": 0.125}
    replaced(path, "0.125", "0.135")
    with pytest.raises(DamagedFileError, match=r"floor.json: differs from its checksum: .*; mend it"):
        read_json(path, "mend it")
    path.write_text('{"mean_cosine": 0.135}')
    assert read_json(path, "mend it") == {"mean_cosine": 0.135}


def test_a_digit_of_a_table(tmp_path):
    """As stability.json and quality.json: the file is a list, and each row has a checksum."""
    path, rows = tmp_path / "table.json", [{"seeds": [1, 2], "shared": 0.125}, {"seeds": [1, 3], "shared": 0.25}]
    write_json(path, rows)
    assert read_json(path, "mend it") == rows
    assert [row.pop("checksum") != "" for row in json.loads(path.read_text())] == [True, True]
    replaced(path, "0.25", "0.35")
    with pytest.raises(DamagedFileError, match=r"table.json: differs from its checksum: .*; mend it"):
        read_json(path, "mend it")
    path.write_text(re.sub('"checksum": "[0-9a-f]+",', "", path.read_text()))
    assert read_json(path, "mend it")[1] == {"seeds": [1, 3], "shared": 0.35}


def test_a_digit_of_a_table_of_scores_is_left_out_of_the_report(tmp_path, capsys):
    row = {"init": "a", "score": "core", "title": "t", "status": "done", "achieved_l0": 1.0, "value": 0.5, "std": None}
    path, rows = tmp_path / "quality.json", [row | {"values": {}, "data": {}, "l0": 40, "seed": 1, "reason": None}]
    write_json(path, rows)
    assert read_records(path) == rows
    replaced(path, "0.5", "0.7")
    assert read_records(path) == []
    assert "quality.json: differs from its checksum" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "read"), [("manifest.json", read_manifest), ("progress.json", read_progress)])
def test_a_digit_of_a_cache(name, read, tmp_path):
    folder = caches.write(tmp_path / "cache")
    if name == "progress.json":
        (folder / "manifest.json").unlink()
        progress_of_a_killed_writer(folder)
    replaced(folder / name, r'"contexts": (\d+)', r'"contexts": 1\1')
    with pytest.raises(UserError, match=rf"{name}: differs from its checksum"):
        read(folder)


def progress_of_a_killed_writer(folder: Path) -> None:
    shutil.rmtree(folder)
    calls = iter(range(30))

    def dying(ids_BT: torch.Tensor) -> torch.Tensor:
        next(calls)
        return caches.forward(ids_BT)

    with pytest.raises((RuntimeError, StopIteration)):
        caches.write(folder, forward=dying)


@pytest.mark.parametrize(
    "damage", [{"statistics": None}, {"splits": {"train": []}}, {"outliers": 3}, {"origin": {"lm": 1}}, {"more": 1}]
)
def test_a_manifest_of_other_types_is_one_line(damage, tmp_path):
    folder = caches.write(tmp_path / "cache")
    saved = without_checksum(json.loads((folder / "manifest.json").read_text()))
    (folder / "manifest.json").write_text(json.dumps({**saved, **damage}))
    with pytest.raises(UserError, match=r"manifest.json: .*; delete .*cache and write the cache again"):
        read_manifest(folder)


def test_a_bit_of_the_tokenised_text(tmp_path):
    write_contexts(tmp_path, caches.origin(), caches.contexts("train"))
    assert len(ContextStore(tmp_path)) > 0
    flip(tmp_path / "contexts.bin", 400)
    with pytest.raises(UserError, match=r"damaged tokenised text \(contexts.bin differs from its checksum\)"):
        ContextStore(tmp_path)


def test_a_bit_of_a_weight(tmp_path):
    save_sae(random_sae(8, 16), tmp_path)
    path = tmp_path / "sae_weights.safetensors"
    before = load_sae(tmp_path).state_dict()
    plain = {name: value.clone() for name, value in load_file(path).items()}
    flip(path, path.stat().st_size - 20)
    with pytest.raises(DamagedFileError, match=r"sae_weights.safetensors: .*differs from its checksum"):
        load_sae(tmp_path)
    save_file(plain, path)  # as SAELens writes it
    assert all(torch.equal(value, before[name]) for name, value in load_sae(tmp_path).state_dict().items())


def test_a_bit_of_kept_tensors(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors({"x": torch.arange(9.0), "mask": torch.ones(3) > 0}, path)
    assert read_tensors(path)["mask"].all()
    flip(path, path.stat().st_size - 1)
    with pytest.raises(DamagedFileError, match="remove it, and the same command makes it again"):
        read_tensors(path)


def test_a_bit_of_a_checkpoint(tmp_path):
    """torch reads it without a word."""
    path = tmp_path / "last.ckpt"
    keys: dict = {"global_step": 1, "loops": {}, "optimizer_states": [], "lr_schedulers": []}
    torch.save({**keys, "state_dict": {"x": torch.ones(10_000)}}, path)
    flip(path, path.stat().st_size // 2)
    assert (torch.load(path, weights_only=True)["state_dict"]["x"] != 1).any()
    with pytest.raises(DamagedFileError, match=r"last.ckpt: is damaged \(.*differs from its checksum\); remove it"):
        load_whole(path)


def test_a_bit_of_compressed_arrays(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).random(500))
    whole = path.read_bytes()
    for place in range(30, len(whole), 97):
        path.write_bytes(whole)
        flip(path, place)
        try:
            assert np.array_equal(read_npz(path, ["x"], "mend it")[0], np.random.default_rng(0).random(500))
        except DamagedFileError as error:
            assert str(error).endswith("; mend it")  # noqa: PT017 - either may be


def test_a_figure_that_no_float_holds(tmp_path):
    (tmp_path / "metrics.json").write_text('{"l0": 4.0, "fvu": 1%s}' % ("0" * 400))
    with pytest.raises(DamagedFileError, match=r"metrics.json: has fvu=1000"):
        read_metrics(tmp_path)


def test_a_row_of_scores_that_misses_a_key_is_one_line(tmp_path, capsys):
    (tmp_path / "quality.json").write_text(json.dumps([{"init": "a", "score": "core", "title": "t", "status": "done"}]))
    assert read_records(tmp_path / "quality.json") == []
    assert "quality.json: is no record of a score" in capsys.readouterr().err
