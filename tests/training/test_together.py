"""Jobs that are trained as a stack: each ends as its own run does, whatever happens to the others."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch

from saemd.sae import twins
from saemd.sae.jumprelu_fast.gpu import HalfLoss
from saemd.sae.registry import ARCHITECTURES
from saemd.training import callbacks, optimizer
from saemd.training.stack import captured
from saemd.training.stack import module as stack_module
from saemd.training.stack import optimizer as stack_optimizer
from tests.pipeline import same, train_all, weights
from tests.training.tape import Recording, record

pytestmark = pytest.mark.usefixtures("blank_figures")

# Three jobs that differ in start, target, learning rate and seeds; the plain reference is what a stack on a CPU runs.
SWEEP = {
    "init": "mirror,uniform", "l0": "4,6", "seed": "3", "tokens": "3200", "recipe.fast": "false",
    "recipe.lr_warmup_fraction": "0.05",
}  # fmt: skip


def runs(root) -> list:
    return sorted(path.parent.relative_to(root) for path in root.rglob("metrics.json"))


def words_of(world: list[str], root: Path, *more: str) -> list[str]:
    """The sweep into `root`, with other values for the keys in `more`."""
    words = {**SWEEP, **dict(word.split("=", 1) for word in more)}
    online = "activations=online" in more  # which has no such window
    keys = [word for word in world if not (online and word.startswith("activations.window_tokens"))]
    return [*keys, *(f"{key}={value}" for key, value in words.items()), f"run_root={root}"]


@pytest.fixture
def sweep(world, tmp_path):
    """Train the sweep into `tmp_path / name`."""

    def train(name: str, *more: str, fails: bool = False) -> Path:
        assert train_all(*words_of(world, tmp_path / name, *more)) == fails
        return tmp_path / name

    return train


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory) -> Path:
    """The sweep, each job by itself."""
    root = tmp_path_factory.mktemp("alone")
    assert not train_all(*words_of(world, root))
    return root


@pytest.fixture(scope="module")
def together(world, tmp_path_factory) -> Path:
    """The sweep as one stack."""
    root = tmp_path_factory.mktemp("together")
    assert not train_all(*words_of(world, root, "together=4"))
    return root


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_member_is_its_own_run(architecture, sweep):
    """On a CPU bit for bit, where batched products of small matrices round as single ones do."""
    more = [f"sae={architecture}", *(["sae.dead_after_tokens=1000"] if "topk" in architecture else [])]
    alone, together = sweep("alone", *more), sweep("together", *more, "together=4")
    assert len(runs(alone)) == 4
    assert runs(together) == runs(alone)
    for run in runs(alone):
        for name, value in weights(alone / run).items():
            torch.testing.assert_close(weights(together / run)[name], value, rtol=0, atol=1e-5)
        assert same(alone / run, together / run) or architecture == "matryoshka_batch_topk"
        ours, theirs = (json.loads((root / run / "metrics.json").read_text()) for root in (together, alone))
        assert ours.pop("trained_together") == 4
        for key in ("fvu", "l0", "drift_dec", "drift_enc", "dead_fraction", "steps", "tokens"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4)


def test_learning_rates_and_data_orders_may_differ(sweep):
    more = ["recipe.lr=1e-3,3e-3", "seed=3,4", "l0=4", "init=uniform", "recipe.adam_beta2=0.99"]
    alone, together = sweep("alone", *more), sweep("together", *more, "together=8")
    assert len(runs(alone)) == 4
    assert all(same(alone / run, together / run) for run in runs(alone))


def test_what_recipes_add_may_differ(sweep):
    words = ["recipe.encoder_decay=0,2", "recipe.freeze_decoder_after=0.5,1", "recipe.decoder_cosine=0.99"]
    more = [
        *words,
        "recipe.l0_start=2",
        "l0=4",
        "init=uniform",
        "recipe.lr=3e-3",
        "recipe.lr_decay=cosine",
        "tokens=1280",
    ]
    alone, together = sweep("alone", *more), sweep("together", *more, "together=8")
    assert len(runs(alone)) == 4
    assert all(same(alone / run, together / run) for run in runs(alone))


def test_what_cannot_share_a_stack_is_split(sweep, capsys):
    together = sweep("split", "batch_size=64,32", "init=uniform", "seed=3,4", "l0=4", "together=8")
    assert len(runs(together)) == 4
    assert capsys.readouterr().err.count("2 SAEs together: done") == 2


def test_what_is_harvested_while_training_is_shared_by_jobs_of_one_order(sweep, capsys):
    more = ["activations=online", "activations.buffer_tokens=1024", "l0=4", "init=uniform"]
    alone = sweep("alone", *more, "init_seed=1,2", "data_seed=1,2")
    capsys.readouterr()
    together = sweep("together", *more, "init_seed=1,2", "data_seed=1,2", "together=4")
    assert capsys.readouterr().err.count("2 SAEs together: done") == 2
    assert len(runs(alone)) == 4
    assert all(same(alone / run, together / run) for run in runs(alone))


class KilledError(Exception):
    pass


@pytest.fixture
def killed_at(monkeypatch):
    """Save a checkpoint at one step, and end the process's training at a later one."""

    def at(saved: int, killed: int) -> None:
        def after(self, trainer, *_):
            if trainer.global_step == saved:
                self.save(trainer)
            if trainer.global_step == killed:
                raise KilledError

        monkeypatch.setattr(callbacks.TimedCheckpoint, "on_train_batch_end", after)

    return at


@pytest.mark.parametrize("goes_on", ["together=4", "together=3", "together=1"])
def test_a_killed_stack_goes_on_as_stacks_or_alone(goes_on, together, sweep, killed_at, monkeypatch):
    killed_at(20, 35)
    killed = sweep("killed", "together=4", fails=True)
    assert runs(killed) == []
    monkeypatch.undo()
    assert sweep("killed", goes_on) == killed
    assert len(runs(together)) == 4
    assert all(same(together / run, killed / run) for run in runs(together))


def test_a_member_that_is_left_alone_keeps_to_the_arithmetic_of_a_stack(sweep):
    """As one of a killed stack whose checkpoint stands at another step than the others'."""
    one = ["init=uniform", "l0=4", "tokens=1280"]
    left, plain = sweep("left", *one, "together=4", "recipe.fast=true"), sweep("plain", *one)
    (run,) = runs(plain)
    assert same(left / run, plain / run)


def test_a_stack_goes_on_with_runs_that_were_alone(alone, sweep, killed_at, monkeypatch):
    killed_at(20, 35)
    killed = sweep("killed", fails=True)
    monkeypatch.undo()
    sweep("killed", "together=auto")
    assert len(runs(alone)) == 4
    assert all(same(alone / run, killed / run) for run in runs(alone))


def test_checkpoints_hold_one_run_and_no_more(alone, together):
    for run in runs(alone):
        ours, theirs = (root / run / "last.ckpt" for root in (together, alone))
        assert abs(ours.stat().st_size - theirs.stat().st_size) < 0.02 * theirs.stat().st_size
        a, b = (torch.load(path, weights_only=True) for path in (ours, theirs))
        for checkpoint in (a, b):  # a stack has no scheduler whose steps Lightning could count
            del checkpoint["loops"]["fit_loop"]["epoch_loop.scheduler_progress"]
        assert_same(a, b)


def assert_same(a, b, where="") -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for i, (one, other) in enumerate(zip(a, b, strict=True)):
            assert_same(one, other, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == pytest.approx(b) if isinstance(a, float) else a == b, where


def test_a_member_that_diverges_leaves_the_others_as_they_are(sweep, capsys):
    more = ["l0=4", "init=uniform", "seed=3,4"]
    together = sweep("together", *more, "recipe.lr=1e-3,1e30", "together=4", fails=True)
    error = capsys.readouterr().err
    assert error.count("failed") == 2
    assert "recipe.lr=1e+30: train/" in error
    alone = sweep("alone", *more, "recipe.lr=1e-3", "folder.recipe.lr=0.001")
    assert runs(together) == runs(alone)
    assert all(same(alone / run, together / run) for run in runs(alone))


def test_a_stack_whose_members_all_diverge_ends_at_once(sweep, capsys):
    sweep("together", "recipe.lr=1e30", "together=4", fails=True)
    assert capsys.readouterr().err.count("failed") == 4


def test_each_run_has_its_own_log(world, command, tmp_path):
    """From the command to the report."""
    root = tmp_path / "logged"
    assert command("-m", *words_of(world, root, "together=4", "logger=csv")) == 0
    assert (root / "stability" / "report.html").is_file()
    curves = []
    for run in runs(root):
        (path,) = (root / run).rglob("metrics.csv")
        rows = [row for row in csv.DictReader(path.open()) if row.get("train/loss")]
        assert len(rows) == 6  # of 50 steps every tenth, and the last
        curves.append([row["train/loss"] for row in rows])
        assert all(float(row["train/grad_norm"]) > 0 for row in rows)
    assert len({tuple(curve) for curve in curves}) == 4


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The way of a GPU, on the CPU: passes for whole stacks, whose steps are recorded and repeated."""
    for module in (optimizer, stack_optimizer):
        monkeypatch.setattr(module, "multiplies_bfloat16", lambda device: True)
    monkeypatch.setattr(optimizer.SAEAdam, "_by_kernels", optimizer.SAEAdam._by_passes)
    monkeypatch.setattr(twins, "_twin", lambda architecture, device: HalfLoss(torch.float32))
    monkeypatch.setattr(stack_module.StackTraining, "_on_gpu", lambda self: True)
    monkeypatch.setattr(captured.CapturedStep.__init__, "__defaults__", (record,))


def test_the_gpu_passes_train_stacks(sweep, as_on_a_gpu):
    """The whole stack, captured, against single runs by the same passes."""
    more = ["recipe.fast=true", "tokens=1280"]
    alone, together = sweep("alone", *more), sweep("together", *more, "together=4")
    for run in runs(alone):
        ours, theirs = weights(together / run), weights(alone / run)
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-5)
        assert not same(alone / run, together / run)


def test_a_captured_step_is_the_step(sweep, as_on_a_gpu, monkeypatch):
    """Bit for bit, through warm-ups and the decay of learning rates, with figures of logged steps in between."""
    more = ["recipe.fast=true", "together=4", "logger=csv", "sae.sparsity_warmup_fraction=0.5"]
    replays = []
    monkeypatch.setattr(Recording, "replay", lambda self, replay=Recording.replay: (replays.append(1), replay(self)))
    recorded = sweep("recorded", *more)
    assert len(replays) == 50 - 6 - captured.EAGER_STEPS - 1  # all steps but the logged ones and the first three
    monkeypatch.setattr(captured, "EAGER_STEPS", 1000)
    eager = sweep("eager", *more)
    assert len(runs(eager)) == 4
    for run in runs(eager):
        assert same(recorded / run, eager / run)
        logs = [next((root / run).rglob("metrics.csv")).read_text().splitlines() for root in (recorded, eager)]
        losses = [[row["train/loss"] for row in csv.DictReader(log) if row["train/loss"]] for log in logs]
        assert losses[0] == losses[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_the_graph_of_a_gpu_makes_the_steps(sweep, monkeypatch):
    """The same kernels in the same order: the graph's weights against those of starting each kernel."""
    more = ["recipe.fast=true", "together=4", "accelerator=gpu"]
    graph = sweep("graph", *more)
    monkeypatch.setattr(captured, "EAGER_STEPS", 1000)
    eager = sweep("eager", *more)
    assert len(runs(eager)) == 4
    for run in runs(eager):
        for name, value in weights(eager / run).items():
            torch.testing.assert_close(weights(graph / run)[name], value, rtol=1e-4, atol=1e-5)


def test_on_a_gpu_one_sae_is_a_stack_of_one(sweep, as_on_a_gpu, monkeypatch):
    more = ["recipe.fast=true", "init=mirror", "l0=4", "tokens=1280"]
    monkeypatch.setattr(twins, "has_gpu_twin", lambda architecture, device: True)
    captured_run = sweep("captured", *more)
    (run,) = runs(captured_run)
    assert "trained_together" not in json.loads((captured_run / run / "metrics.json").read_text())
    monkeypatch.setattr(twins, "has_gpu_twin", lambda architecture, device: False)
    plain = sweep("plain", *more)
    for name, value in weights(plain / run).items():
        torch.testing.assert_close(weights(captured_run / run)[name], value, rtol=1e-3, atol=1e-4)
    assert sweep("captured", *more) == captured_run
    assert sweep("failing", *more, "recipe.lr=1e30", fails=True)


def test_a_captured_stack_goes_on_after_a_kill(sweep, as_on_a_gpu, killed_at, monkeypatch):
    more = ["recipe.fast=true", "together=4"]
    whole = sweep("whole", *more)
    as_it_is = callbacks.TimedCheckpoint.on_train_batch_end
    killed_at(22, 35)
    sweep("killed", *more, fails=True)
    monkeypatch.setattr(callbacks.TimedCheckpoint, "on_train_batch_end", as_it_is)
    killed = sweep("killed", *more)
    assert len(runs(whole)) == 4
    assert all(same(whole / run, killed / run) for run in runs(whole))


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_one_pass_with_a_first_moment_equals_plain(beta1):
    from saemd.training.config import RecipeConfig
    from tests.training.test_optimizer import start, steps

    plain, passes = start(), start()
    recipe = RecipeConfig(lr=1e-2, adam_beta1=beta1, fast=False)
    by_passes = optimizer.SAEAdam(passes, recipe)
    by_passes._plain = by_passes._by_passes  # type: ignore[method-assign]
    assert steps(plain, optimizer.SAEAdam(plain, recipe)) == pytest.approx(steps(passes, by_passes), rel=1e-5)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(passes.state_dict()[name], value, rtol=1e-4, atol=1e-5)


BAD = {
    "none": (["together=0"], r"together=0: use at least 1, or auto"),
    "a word": (["together=all"], r"together=all: use at least 1, or auto"),
    "more than fit": (["together=100000000"], r"together=100000000: .* GB of memory are free; \d+ would fit"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, world, command, capsys, tmp_path):
    words, message = BAD[case]
    assert command("-m", *words_of(world, tmp_path, *words)) == 2
    error = capsys.readouterr().err
    assert re.search(f"^error: {message}", error, re.MULTILINE), error
    assert not list(tmp_path.rglob("config.yaml"))
