"""`saemd plan`: what it says of a command, what is done already, and what does not fit; and that it only reads."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from transformers import Gemma2Config

from saemd import plan
from saemd.planning import estimate
from saemd.planning.trial import time_steps
from tests.pipeline import WORDS, add_to_snapshot, save_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def planned(command, capsys):
    """Run `saemd plan`; returns exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        return command(*arguments, main=plan.main), *capsys.readouterr()

    return run


def files(*folders: Path) -> dict[Path, tuple[int, int]]:
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


def test_a_plan_only_reads(world, planned, tmp_path):
    arguments = ["-m", *world, f"run_root={tmp_path / 'runs'}", f"cache_root={tmp_path / 'cache'}", "seed=0,1"]
    code, out, err = planned("--no-measure", *arguments, "init=mirror,uniform")
    assert (code, err) == (0, "")
    assert not any(tmp_path.iterdir())
    assert "harvest layer 1: 213 contexts of 32" in out
    assert "train init=uniform l0=4 seed=1: 128 steps" in out
    assert "compare 2 pairs of seeds: 5 matchings of 48 × 16" in out
    assert max(map(len, out.splitlines())) <= 100


def test_what_is_finished_or_begun_costs_the_rest(world, planned, command, tmp_path):
    arguments = ["-m", *world, f"run_root={tmp_path / 'runs'}", "init=uniform", "seed=0,1"]
    assert command(*arguments) == 0
    before = files(tmp_path)
    code, out, _ = planned("--no-measure", *arguments)
    assert (code, files(tmp_path)) == (0, before)
    assert out.startswith("2 jobs (2 finished)")
    assert "harvest layer 1: there already" in out
    assert "compare" not in out
    assert re.search(r"everything +\S+ \S+ +\S+ \S+ +0 bytes", out)

    begun = tmp_path / "runs" / "init=uniform" / "l0=4" / "seed=1"
    (begun / "metrics.json").unlink()
    checkpoint = torch.load(begun / "last.ckpt", weights_only=True)
    torch.save({**checkpoint, "global_step": 96}, begun / "last.ckpt")
    _, out, _ = planned("--no-measure", *arguments)
    assert out.startswith("2 jobs (1 finished, 1 interrupted)")
    assert re.search(r"train init=uniform l0=4 seed=1: 32 steps, 75% done +2,048 ", out)
    assert "compare 1 pair of seeds: 2 matchings of 48 × 16" in out


def test_shards_of_a_smaller_cache_are_not_made_again(world, planned, command, tmp_path):
    arguments = [*world, f"cache_root={tmp_path / 'cache'}", "init=uniform", "activations.shard_tokens=512"]
    assert command(*arguments, f"run_root={tmp_path / 'small'}", "tokens=1024", "activations.tokens=2000") == 0
    code, out, err = planned("--no-measure", *arguments, f"run_root={tmp_path / 'large'}", "activations.tokens=4000")
    assert (code, err) == (0, "")
    (there,) = re.findall(r"harvest layer 1: .* of text, ([\d,]+) ", out)
    assert 2000 < int(there.replace(",", "")) < 2600


def test_a_run_of_another_configuration_is_refused(world, planned, command, tmp_path):
    arguments = [*world, f"run_root={tmp_path / 'runs'}", "init=uniform"]
    assert command(*arguments) == 0
    code, out, err = planned("--no-measure", *arguments, "recipe.lr=0.001")
    assert (code, out) == (2, "")
    assert "recipe.lr: 0.0003 there, 0.001 asked for" in err


def test_times_are_measured(world, planned, tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "SECONDS", 0.2)
    arguments = ["-m", *world, f"run_root={tmp_path / 'runs'}", f"cache_root={tmp_path / 'cache'}", "seed=0,1"]
    code, out, _ = planned(*arguments, "init=mirror,uniform", "tokens=6400")
    assert code == 0
    assert not any(tmp_path.iterdir())
    rows = [line for line in out.splitlines() if re.match(r"(harvest|train|all training|compare|everything)", line)]
    timed = [row for row in rows if re.search(r"\d (s|min.*)$", row.rstrip())]
    assert len(timed) == 8


def test_jobs_of_a_stack_are_timed_as_a_stack(world, planned, tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "SECONDS", 0.2)
    sizes = []

    def timed(*arguments, **keys):
        sizes.append(arguments[-1])
        return time_steps(*arguments, **keys)

    monkeypatch.setattr(estimate, "time_steps", timed)
    words = ["-m", *world, f"run_root={tmp_path / 'runs'}", f"cache_root={tmp_path / 'cache'}", "init=uniform"]
    code, out, _ = planned(*words, "together=2", "seed=0,1,2", "snapshots=[]")
    assert (code, sorted(sizes)) == (0, [1, 2])  # two of the three jobs are one stack
    assert len(re.findall(r"^train .*\d (?:s|min.*)$", out, re.MULTILINE)) == 3


def test_the_paper_is_planned_without_the_model(planned, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("requests.sessions.Session.request", lambda *a, **k: pytest.fail("something was fetched"))
    words = ["experiment=paper", "init=mirror,uniform", "seed=24,42", f"cache_root={tmp_path / 'cache'}"]
    code, out, err = planned("-m", *words, f"run_root={tmp_path / 'runs'}", "--tflops=400", "--disk-gbps", "2")
    assert "google/gemma-2-2b (not on this machine yet) · 2,304 → 18,432 latents" in out
    assert re.search(r"harvest layer 12: 488,808 contexts of 1,024.* 500,050,000 +1.07 EFLOP +2 h 28 min", out)
    assert out.count("212 PFLOP   29 min 30 s") == 4
    assert re.search(r"activations of layer 12.* 2\.3 TB", out)
    free = shutil.disk_usage(tmp_path).free
    assert code == (2 if free < 2.4e12 else 0)
    if code:
        assert re.fullmatch(r"does not fit this machine: disk: 2.4 TB are needed and .* set cache_root to .*\n", err)
    assert not any(tmp_path.iterdir())


def test_a_hub_model_that_is_here_is_read_from_its_files(planned, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    config = Gemma2Config(
        vocab_size=len(WORDS) + 3, hidden_size=16, intermediate_size=24, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    repository = tmp_path / "hub" / "models--google--gemma-2-2b"
    for file in save_model(tmp_path / "model", config).iterdir():
        add_to_snapshot(repository / "snapshots" / COMMIT, file)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    text = tmp_path / "text.txt"
    text.write_text(" ".join(WORDS))
    words = ["experiment=paper", "layer=2", "d_sae=48", "l0=4", "tokens=50_000_000", "activations.tokens=1_000_000"]
    words += [f"corpus.path={text}", f"cache_root={tmp_path / 'cache'}", f"run_root={tmp_path / 'runs'}"]
    before = files(tmp_path)
    code, out, _ = planned("--no-measure", *words, "corpus=files")
    assert (code, files(tmp_path)) == (0, before)
    assert "1 job · google/gemma-2-2b · 16 → 48 latents" in out
    assert f"harvest layer 2: {-(-1_050_000 // 1023):,} contexts of 1,024" in out


def test_memory_that_does_not_suffice_is_said(world, planned, tmp_path, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda key: {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}.get(key, 1))
    code, _, err = planned("--no-measure", *world, f"run_root={tmp_path / 'runs'}", "init=uniform")
    assert code == 2
    assert re.fullmatch(r"does not fit this machine: memory: .* this machine has 4.1 MB; use a smaller d_sae.*\n", err)


@pytest.mark.parametrize(
    ("more", "time", "how"),
    [
        (
            ["-m", "hydra/launcher=ray"],
            "–",
            "Times: not measured, this machine has no GPU; --tflops gives the rate of one.",
        ),
        (["--tflops=400"], r"\d.*s", "Times: estimates by 400 TFLOP/s"),
    ],
    ids=["launcher", "rates"],
)
def test_a_gpu_is_planned_where_this_machine_has_none(more, time, how, world, planned, tmp_path, monkeypatch):
    """Bytes, tokens and FLOPs need no GPU. Without a launcher or rates it is refused, as training is."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words = [*world, f"run_root={tmp_path / 'runs'}", f"cache_root={tmp_path / 'cache'}", "seed=0", "accelerator=gpu"]
    code, out, err = planned(*words, *more)
    assert (code, err) == (0, "")
    assert re.search(rf"train init=mirror l0=4 seed=0: 128 steps +8,192 +\S+ MFLOP +{time}", out)
    assert "GPU memory" in out
    assert how in " ".join(out.split())
    code, _, err = planned(*words)
    assert (code, "accelerator=gpu: this machine has no GPU that torch can use" in err) == (2, True)


BAD = {
    "an unknown flag": (["--speed=3"], r"--speed=3: the flags are --tflops, "),
    "no number": (["--tflops=fast"], r"--tflops=fast: use a positive number"),
    "no value": (["--tflops"], r"--tflops=: use a positive number"),
    "an efficiency of its own": (["--efficiency=0.5"], r"--efficiency=0.5: a share of --tflops"),
    "an efficiency above 1": (["--tflops=1", "--efficiency=2"], r"--efficiency=2.0: use a share"),
    "an unknown key": (["colour=red"], r"colour: there is no such key"),
    "a layer outside": (["layer=3"], r"layer=3: .* has layers 0 to 2"),
    "too few latents": (["l0=49"], r"l0=49: the target L0 cannot exceed d_sae=48"),
    "a start that does not fit": (["init=mirror", "d_sae=50"], r"d_sae=50: .*2m=48"),
    "two jobs in one folder": (["-m", "seed=1,1"], r"seed=1: two jobs of this sweep would share"),
    "a batch above the cache": (["batch_size=7000", "tokens=7000"], r"batch_size=7000: an epoch would have"),
    "a model that nobody knows": (
        ["lm.name=someone/something"],
        r"lm.name=someone/something: .* `hf download someone/",
    ),
    "no folder": (["lm.name=./nowhere"], r"lm.name=./nowhere: "),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case, world, planned, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    words, message = BAD[case]
    code, out, err = planned(*world, f"run_root={tmp_path}", *words)
    assert (code, out) == (2, "")
    assert re.match(f"error: {message}", err)
    assert err.count("\n") == 1


def test_train_says_what_it_will_do(world, command, tmp_path, capsys):
    arguments = ["-m", *world, f"run_root={tmp_path}", f"cache_root={tmp_path / 'cache'}", "init=uniform", "seed=0,1"]
    assert command(*arguments) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("plan: ")]
    assert len(said) == 1
    expected = r"plan: harvest 6,600 tokens of layer 1 \(211.2 kB\), train 2 of 2 jobs \(16,384 tokens, .* kB\), "
    assert re.match(expected + "compare 1 pair of seeds; saemd plan", said[0])
    assert command(*arguments) == 0
    assert "plan: " not in capsys.readouterr().err
