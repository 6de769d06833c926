"""What is known before any work: which input of a run has changed since."""

from pathlib import Path

import pytest

from tests.pipeline import documents


@pytest.fixture
def text(tmp_path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    for i in range(20):
        (folder / f"{i:02}.txt").write_text(" ".join(documents(40, seed=i)))
    return folder


@pytest.mark.parametrize("finished", [True, False])
def test_a_removed_file_of_the_corpus_is_said(finished, text, world, command, tmp_path, capsys):
    arguments = [
        *world,
        f"corpus.path={text}",
        f"run_root={tmp_path / 'runs'}",
        f"cache_root={tmp_path}",
        "init=uniform",
    ]
    assert command(*arguments) == 0
    if not finished:
        next(tmp_path.rglob("metrics.json")).unlink()
    (text / "00.txt").unlink()
    capsys.readouterr()
    assert command(*arguments) == 2
    said = capsys.readouterr().err
    assert f"holds a run of another configuration (the files of corpus.path={text} have changed since)" in said
    for file in text.iterdir():
        file.unlink()
    text.rmdir()
    assert command(*arguments) == 2
    assert f"error: corpus.path={text}: there is no such file or folder" in capsys.readouterr().err


def test_an_edited_model_is_said(world, command, tmp_path, capsys):
    model = tmp_path / "model"
    model.mkdir()
    for file in Path(next(word for word in world if word.startswith("lm.name=")).removeprefix("lm.name=")).iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    arguments = [*world, f"lm.name={model}", f"run_root={tmp_path / 'runs'}", f"cache_root={tmp_path}", "init=uniform"]
    assert command(*arguments) == 0
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-2] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    assert command(*arguments) == 2
    assert f"(the files of lm.name={model} have changed since)" in capsys.readouterr().err
