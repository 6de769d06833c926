"""Every start of `conf/init/`, from the command to trained runs of two seeds on a tiny language model."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from saemd.arguments import CONF
from saemd.composition import compose_all
from saemd.runs import run_dir
from saemd.training.run import prepare
from saemd.training.stack.train import train_together

NAMES = sorted({path.stem for path in (CONF / "init").glob("*.yaml")} - {"saved"})  # which needs an SAE of before
SHARED = {name for name in NAMES if name.endswith("_shared")} | {"mirror", "mirror_layer", "pool"}


@pytest.mark.parametrize("name", NAMES)
def test_every_start_trains(name, world, tmp_path):
    """Two steps of two seeds, as one stack: the seeds share the starts that they should, and no others."""
    config = compose_all([*world, f"run_root={tmp_path}", "tokens=128", f"init={name}", "seed=0"])[0]
    configs = [dataclasses.replace(config, seed=seed, init_seed=seed, data_seed=seed) for seed in (0, 1)]
    assert [outcome["steps"] for outcome in train_together(configs) if isinstance(outcome, dict)] == [2, 2]
    starts = [yaml.safe_load((run_dir(config) / "config.yaml").read_text())["start"]["W_dec"] for config in configs]
    assert (starts[0] == starts[1]) == (name in SHARED)


def test_the_shared_draw_is_that_of_no_usual_seed(world, tmp_path):
    """Of seed 0 above all."""
    config = compose_all([*world, f"run_root={tmp_path}", "init=uniform", "seed=0"])[0]
    shared = dataclasses.replace(config, init=dataclasses.replace(config.init, shared=True))  # type: ignore[call-arg]
    own, common = (prepare(each).about["start"]["W_dec"] for each in (config, shared))
    assert own != common


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["init=mirror_layer", "init.offset=2"], "init.offset=2: from layer=1 the model has layers at -1 to 1"),
        (["init=random_mirrored", "d_sae=31"], "d_sae=31: init=random_mirrored consists of rows and their opposites"),
        (["init=data_points", "d_sae=7000"], "activations.tokens=6000: init=data_points takes d_sae=7000"),
        (["init=pool", "init.parts=[heads]"], "init.parts=['heads']: name each once"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(words, line, world, command, tmp_path, capsys):
    assert command(*world, *words, f"run_root={tmp_path / 'runs'}", f"cache_root={tmp_path / 'cache'}") == 2
    assert line in capsys.readouterr().err
    assert not (tmp_path / "cache" / "activations").exists()
