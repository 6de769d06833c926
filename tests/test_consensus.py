"""`saemd consensus`: from finished seeds to a run like any other."""

import json

import numpy as np
import pytest

from saemd import jobs, load_sae
from saemd.consensus import main
from saemd.runs import find_runs

pytestmark = pytest.mark.usefixtures("blank_figures")
SEEDS = "seed=1,2,3,4"


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    root = tmp_path_factory.mktemp("consensus")
    assert jobs.main(["-m", *world, "init=uniform", SEEDS, "tokens=12800", "together=4", f"run_root={root}"]) == 0
    return root


def test_two_consensus_saes_are_runs_that_are_compared(trained, capsys):
    assert main([f"run_root={trained}", "seeds=2", "shared_threshold=0.2"]) == 0
    runs = sorted(trained.glob("init=uniform-consensus/l0=4/of=2/shared_threshold=0.2/seed=*"))
    assert [run.name for run in runs] == ["seed=1", "seed=3"]
    for run in runs:
        assert json.loads((run / "metrics.json").read_text())["tokens"] == 12800 // 4 // 64 * 64
        latents = np.load(run / "latents.npz")
        metadata = json.loads((run / "cfg.json").read_text())["metadata"]
        assert latents["recurrence"].tolist() == metadata["recurrence"]
        assert set(metadata["recurrence"]) <= {0, 1}
        assert metadata["recurrence"] == sorted(metadata["recurrence"], reverse=True)
        assert load_sae(run).d_sae == len(metadata["recurrence"])
    records = json.loads((trained / "stability" / "stability.json").read_text())
    assert [record["seeds"] for record in records if record["init"] == "uniform-consensus"] == [[1, 3]]
    capsys.readouterr()
    assert main([f"run_root={trained}", "seeds=2", "shared_threshold=0.2"]) == 0
    assert capsys.readouterr().err.count("a consensus of 2 seeds") == 2


def test_without_training_it_is_the_consensus_itself(trained):
    assert main([f"run_root={trained}", "seeds=4", "tokens=64", "recipe.lr=0"]) == 0
    (run,) = trained.glob("init=uniform-consensus/l0=4/of=4/recipe.lr=0.0/tokens=64/seed=1")
    (folder,) = trained.glob("consensus/uniform-l0=4-1-2-3-4-*")
    for name, value in load_sae(folder).state_dict().items():
        assert np.allclose(load_sae(run).state_dict()[name], value, rtol=1e-4, atol=1e-6), name


def test_ways_to_train_it_on_stand_side_by_side(trained):
    """Each key that is given is a part of the folder, however it is written, so that they are compared in one place."""
    for words in ([], ["recipe.lr=1e-4"], ["recipe.lr=0.0001"], ["recipe.freeze_encoder_after=0", "recipe.lr=1e-4"]):
        assert main([f"run_root={trained}", "seeds=2", "tokens=640", *words]) == 0
    found = {run.parts.get("recipe.lr") for run in find_runs(trained)[0] if run.parts.get("tokens") == "640"}
    assert found == {None, "0.0001"}
    records = json.loads((trained / "stability" / "stability.json").read_text())
    ours = [folder for one in records if (folder := one.get("folder", {})).get("tokens") == "640"]
    assert len(ours) == 3
    assert {"of": "2", "recipe.lr": "0.0001", "tokens": "640"} in ours


def test_fewer_latents_are_those_that_return_most_often(trained):
    words = [f"run_root={trained}", "seeds=4", "tokens=64", "recipe.lr=0"]
    assert main(words) == 0
    assert main([*words, "d_sae=8"]) == 0
    folders = {load_sae(path).d_sae: path for path in trained.glob("consensus/uniform-l0=4-1-2-3-4-*")}
    assert sorted(folders)[0] == 8
    whole = folders[max(folders)]
    (run,) = trained.glob("init=uniform-consensus/l0=4/d_sae=8/of=4/recipe.lr=0.0/tokens=64/seed=1")
    most_often = np.load(whole / "latents.npz")["recurrence"][:8].tolist()
    assert np.load(run / "latents.npz")["recurrence"].tolist() == most_often
    assert np.allclose(load_sae(run).W_dec.detach(), load_sae(whole).W_dec[:8].detach(), atol=1e-6)


BAD = {
    "too many latents": (["d_sae=4096"], "d_sae=4096: a consensus has at most as many latents as a seed"),
    "a word": (["seeds=all"], "seeds=all: use a whole number of at least 1"),
    "too many": (["seeds=9"], "no start and L0 has enough finished seeds of the same documents for seeds=9"),
    "an unknown key": (["seed=3"], "seed=3: known are run_root=…, seeds=…"),
    "an unknown key of the recipe": (
        ["recipe.lrr=3"],
        "recipe.lrr: there is no such key here; did you mean recipe.lr?",
    ),
    "a bad value": (["recipe.lr=-1"], "recipe.lr=-1.0: use a positive number"),
    "no start": (["init=mirror"], "no start and L0 has enough finished seeds of the same documents for init=mirror"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, trained):
    from saemd.errors import UserError

    words, message = BAD[case]
    before = sorted(trained.rglob("*"))
    with pytest.raises(UserError) as raised:
        main([f"run_root={trained}", *words])
    assert message in str(raised.value)
    assert sorted(trained.rglob("metrics.json")) == [path for path in before if path.name == "metrics.json"]
