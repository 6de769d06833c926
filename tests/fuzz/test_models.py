"""Damaged language models: the lists that say which file holds a weight, archives of packages, and GGUF files."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter
from hypothesis import given
from hypothesis import strategies as st

from saemd.lm.config import LMConfig, PackageConfig
from saemd.lm.files import resolve, weight_files, weight_paths
from tests.fuzz.mutations import JUNK, as_json, damaged_bytes, damaged_value, few, refused
from tests.fuzz.places import emptied

D, M, VOCABULARY = 32, 64, ["<s>", "</s>", "<unk>", *"abcdefghijk", "ab", "cd"]
SHAPES = {
    "attn_q": (D, D), "attn_k": (D, D), "attn_v": (D, D), "attn_output": (D, D), "ffn_gate": (M, D), "ffn_up": (M, D),
    "ffn_down": (D, M), "attn_norm": (D,), "ffn_norm": (D,),
}  # fmt: skip


@pytest.fixture(scope="module")
def gguf(tmp_path_factory) -> bytes:
    """A llama of one layer."""
    path, generator = tmp_path_factory.mktemp("gguf") / "model.gguf", np.random.default_rng(0)
    writer = GGUFWriter(path, "llama")
    for key, value in {
        "context_length": 16, "embedding_length": D, "block_count": 1, "feed_forward_length": M, "head_count": 2,
        "head_count_kv": 2, "layer_norm_rms_eps": 1e-5, "vocab_size": len(VOCABULARY), "tokenizer_model": "gpt2",
        "token_list": VOCABULARY, "token_merges": ["a b", "c d"], "bos_token_id": 0, "eos_token_id": 1,
    }.items():  # fmt: skip
        getattr(writer, f"add_{key}")(value)
    weights = {"token_embd": (len(VOCABULARY), D), "output": (len(VOCABULARY), D), "output_norm": (D,)}
    for name, shape in {**weights, **{f"blk.0.{name}": SHAPES[name] for name in SHAPES}}.items():
        writer.add_tensor(f"{name}.weight", generator.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def packaged(root: Path, content: bytes, members: list[str]) -> LMConfig:
    """A model in two packages of this machine, of which `members` are asked for."""
    parts = []
    for k, half in enumerate((content[: len(content) // 2], content[len(content) // 2 :])):
        wheel = root / "packages" / f"part{k}-1.0" / f"part{k}.whl"
        wheel.parent.mkdir(parents=True)
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"part{k}/data.gguf", half)
        parts.append(PackageConfig(f"part{k}", "1.0", "0" * 64, [members[k]]))
    return LMConfig(name="tiny", packages=parts)


MEMBERS = ["part0/data.gguf", "part1/data.gguf"]


def test_a_whole_model_is_converted(gguf, tmp_path):
    assert (resolve(packaged(tmp_path, gguf, MEMBERS), tmp_path) / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"blk.0.ffn_up", b"blk.0.ffn_pu", "lacks the weights model.layers.0.mlp.up_proj.weight; take another"),
        (b"block_count\4\0\0\0\1\0", b"block_count\4\0\0\0\1\4", "asks for 1,025 layers and is too small"),
    ],
)
def test_weights_that_it_lacks_are_not_drawn_at_random(old, new, said, gguf, tmp_path):
    assert gguf.count(old) == 1
    error = refused(lambda: resolve(packaged(tmp_path, gguf.replace(old, new), MEMBERS), tmp_path))
    assert str(error) == f"lm.name=tiny: its GGUF file {said}"


@few(30)
@given(data=st.data())
def test_bytes_of_a_gguf_file(data, gguf, tmp_path_factory):
    """It has no checksum of its own (`lm.gguf_sha256` is one): it is read as it stands, or refused."""
    root = emptied(tmp_path_factory, "gguf")
    config = packaged(root, data.draw(damaged_bytes(gguf)), MEMBERS)
    refused(lambda: resolve(config, root))
    assert not list(root.glob("models/.partial*"))


@few(40)
@given(data=st.data())
def test_bytes_of_the_archive_of_a_package(data, gguf, tmp_path_factory):
    root = emptied(tmp_path_factory, "archive")
    config = packaged(root, gguf, MEMBERS)
    wheel = root / "packages" / "part1-1.0" / "part1.whl"
    wheel.write_bytes(data.draw(damaged_bytes(wheel.read_bytes())))
    refused(lambda: resolve(config, root))


@few(10)
@given(member=st.one_of(st.text(max_size=12), st.sampled_from(("../x", "/x", "part0/", "part0/data.gguf\0"))))
def test_members_that_a_package_may_not_have(member, gguf, tmp_path_factory):
    root = emptied(tmp_path_factory, "members")
    error = refused(lambda: resolve(packaged(root, gguf, [member, MEMBERS[1]]), root))
    assert error is not None
    assert str(error) == f"lm.packages=part0.whl: it has no file {member!r}"


@few(120)
@given(data=st.data())
def test_the_list_of_a_models_shards(data, tmp_path_factory):
    folder = emptied(tmp_path_factory, "index")
    names = [f"model-{k:05d}-of-00003.safetensors" for k in (1, 2, 3)]
    for name in names:
        (folder / name).touch()
    index = {"metadata": {"total_size": 12}, "weight_map": {f"layers.{k}.weight": name for k, name in enumerate(names)}}
    changed = data.draw(st.sampled_from(("bytes", "value", "other")))
    content = {
        "bytes": lambda: data.draw(damaged_bytes(as_json(index))),
        "value": lambda: as_json(data.draw(damaged_value(index))),
        "other": lambda: json.dumps({"weight_map": data.draw(JUNK)}).encode(),
    }[changed]()
    (folder / "model.safetensors.index.json").write_bytes(content)
    config = LMConfig(name=str(folder))
    refused(lambda: weight_files(config, folder))
    found: list[list[Path]] = []
    if refused(lambda: found.append(weight_paths(config, folder))) is None:
        assert {path.parent for path in found[0]} == {folder}
        assert all(path.is_file() for path in found[0])
