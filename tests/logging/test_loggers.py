"""Loggers: each job a finished run of its own, nothing sent where logging is offline, files under the run directory."""

import csv
import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.utilities import disable_possible_user_warnings
from PIL import Image

from saemd.errors import UserError
from saemd.logging import LoggerConfig, finish, log_stability, log_summary, make_logger, names, run_id
from saemd.logging.account import resolve_mode
from tests.logging.offline import logged, of_kind, offline_run, records, summary

disable_possible_user_warnings()


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home without an account."""
    for variable in [name for name in os.environ if name.startswith("WANDB_")] + ["NETRC"]:
        monkeypatch.delenv(variable, raising=False)
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(folder))
    return folder


def resolved(label: str = "mirror", l0: int = 40, seed: int = 24) -> dict:
    return {"init": {"label": label, "encoder": "dual"}, "l0": l0, "seed": seed}


class Job(lightning.LightningModule):
    """Two parameters; logs as training does, and fails at its third step if `fails`."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.fails = fails

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        if self.fails and batch_idx == 2:
            raise RuntimeError("boom")
        loss = (batch - self.weight).square().mean()
        self.log_dict({"train/loss": loss, names.TOKENS: float(4 * (batch_idx + 1))})
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(config: LoggerConfig, run_dir: Path, seed: int, fails: bool = False) -> None:
    """A job as the entry runs it: logger, training, summary, and `finish` in any case."""
    name = f"init=mirror l0=40 seed={seed}"
    logger = make_logger(
        config,
        run_dir,
        group="sweep",
        run_name=name,
        run_id=run_id("sweep", name, "f00"),
        resolved_config=resolved(seed=seed),
    )
    exit_code = 1
    try:
        trainer = lightning.Trainer(
            max_steps=4,
            logger=logger,
            log_every_n_steps=1,
            accelerator="cpu",
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=run_dir,
        )
        trainer.fit(Job(fails), torch.utils.data.DataLoader(torch.ones(16, 2), batch_size=4))  # type: ignore[arg-type]
        log_summary(logger, {"l0": 41.5, "steps": 4})
        exit_code = 0
    finally:
        finish(logger, exit_code)


def test_two_jobs_in_one_process_are_two_finished_runs_also_when_one_fails(tmp_path: Path) -> None:
    config = LoggerConfig(name="wandb")
    with pytest.raises(RuntimeError, match="boom"):
        train(config, tmp_path / "a", seed=24, fails=True)
    train(config, tmp_path / "b", seed=42)

    failed, done = offline_run(tmp_path / "a"), offline_run(tmp_path / "b")
    assert [exit.exit_code for exit in of_kind(failed, "exit")] == [1]
    assert [exit.exit_code for exit in of_kind(done, "exit")] == [0]
    assert len(logged(failed)) == 2
    assert [row[names.TOKENS] for row in logged(done)] == [4, 8, 12, 16]
    assert all("train/loss" in row for row in logged(done))
    assert summary(done)["final/l0"] == 41.5
    assert "final/l0" not in summary(failed)

    (run,) = of_kind(done, "run")
    assert run.display_name == "init=mirror l0=40 seed=42"
    assert (run.run_group, run.job_type, run.project) == ("sweep", "train", "saemd")
    assert set(run.tags) == {"init=mirror", "l0=40", "seed=42"}
    config_of_run = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config_of_run["init"]["label"] == "mirror"
    assert run.run_id != of_kind(failed, "run")[0].run_id
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]  # nothing beside the run directories


def test_a_resumed_job_continues_its_own_run(tmp_path: Path) -> None:
    for _ in range(2):
        train(LoggerConfig(name="wandb", group="mine"), tmp_path, seed=24)
        time.sleep(1)  # wandb names offline folders by the second
    (first,), (second,) = (of_kind(offline_run(tmp_path, which), "run") for which in (0, 1))
    assert first.run_id == second.run_id == run_id("sweep", "init=mirror l0=40 seed=24", "f00")
    assert second.run_group == "mine"
    values = [("sweep", "a", "f"), ("other", "a", "f"), ("sweep", "b", "f"), ("sweep", "a", "g")]
    assert len({run_id(*value) for value in values}) == 4


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[bytes]]]:
    """A local HTTP proxy that answers nobody and keeps the first line of every call."""
    calls: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    calls.append(connection.recv(200).split(b"\r\n")[0])

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", calls


JOB = """
    import sys, json
    from pathlib import Path
    from saemd.logging import *
    folder = Path(sys.argv[1])
    config = LoggerConfig(name="wandb")
    (folder / "stability").mkdir(exist_ok=True)
    figures = ("same_match", "shared", "mean_cos_enc", "mean_cos_dec", "drift_dec", "random_floor")
    (folder / "stability/stability.json").write_text(json.dumps([{"init": "a", "l0": 2} | dict.fromkeys(figures, 0.5)]))
    resolved = {"init": {"label": "a"}, "l0": 2, "seed": 0}
    for job in "ab":
        logger = make_logger(
            config, folder / job, group="g", run_name=job, run_id=f"id-{job}", resolved_config=resolved
        )
        logger.log_metrics({"train/loss": 1.0}, step=0)
        finish(logger, 0)
    log_stability(config, folder, "g")
"""


@pytest.mark.slow
def test_no_network_call_where_logging_is_offline(tmp_path: Path, proxy: tuple[str, list[bytes]]) -> None:
    """wandb's service is a process of its own, and its telemetry runs at exit: hence a whole process behind a proxy."""
    address, calls = proxy
    environment = os.environ | {name: address for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")}
    environment |= {"no_proxy": "", "NO_PROXY": "", "PYTHONPATH": os.getcwd()}

    def start(script: str, **more: str) -> subprocess.Popen:
        command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
        return subprocess.Popen(command, env=environment | more, stderr=subprocess.PIPE, text=True, cwd=tmp_path)

    job = start(JOB)
    said = job.communicate(timeout=120)[1]
    assert job.returncode == 0, said
    assert len(list(tmp_path.glob("*/wandb/offline-run-*"))) == 3
    assert calls == []
    assert "wandb: offline" in said

    online = start("import wandb; wandb.init()", WANDB_API_KEY="x" * 40, WANDB_SILENT="true")
    deadline = time.monotonic() + 60
    while not calls and time.monotonic() < deadline:
        time.sleep(0.1)
    online.kill()
    online.communicate()
    assert calls  # the proxy does see what wandb sends when it is online


def test_no_connection_is_one_clear_line_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9 cannot be reached .*logger\.mode=offline"):
        train(LoggerConfig(name="wandb"), tmp_path, seed=24)
    assert time.monotonic() - started < 60  # wandb itself tries for 90 seconds


def test_auto_is_online_exactly_where_a_key_is_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = LoggerConfig(name="wandb")
    (home / ".config/wandb").mkdir(parents=True)
    assert resolve_mode(config) == "offline"

    (home / ".netrc").write_text("machine example.org login user password secret\n")
    assert resolve_mode(config) == "offline"
    monkeypatch.setenv("WANDB_BASE_URL", "https://example.org")
    assert resolve_mode(config) == "online"
    monkeypatch.delenv("WANDB_BASE_URL")
    (home / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert resolve_mode(config) == "online"
    (home / ".netrc").write_text("machine\n")
    with pytest.warns(UserWarning, match="cannot be read"):
        assert resolve_mode(config) == "offline"
    (home / ".netrc").unlink()

    (home / ".config/wandb/settings").write_text("[default]\napi_key = secret\n")
    assert resolve_mode(config) == "online"
    (home / ".config/wandb/settings").unlink()

    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert resolve_mode(config) == "online"
    assert resolve_mode(LoggerConfig(name="wandb", mode="offline")) == "offline"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert resolve_mode(config) == "offline"
    assert resolve_mode(LoggerConfig(name="wandb", mode="online")) == "online"


def test_csv_keeps_the_rows_of_every_start(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="boom"):
        train(LoggerConfig(name="csv"), tmp_path, seed=24, fails=True)
    train(LoggerConfig(name="csv"), tmp_path, seed=24)
    files = (tmp_path / f"csv/version_{version}/metrics.csv" for version in (0, 1))
    failed, done = (list(csv.DictReader(file.read_text().splitlines())) for file in files)
    assert [row[names.TOKENS] for row in failed] == ["4.0", "8.0"]
    assert [row[names.TOKENS] for row in done] == ["4.0", "8.0", "12.0", "16.0", ""]
    assert done[-1]["final/l0"] == "41.5"


def test_none_logs_nothing_and_a_bad_choice_is_one_clear_line(tmp_path: Path) -> None:
    train(LoggerConfig(name="none"), tmp_path / "run", seed=24)
    assert not (tmp_path / "run").exists()
    for config, message in (
        (LoggerConfig(name="tensorboard"), "logger.name=tensorboard: choose one of none, csv, wandb"),
        (LoggerConfig(mode="sometimes"), "logger.mode=sometimes: choose one of auto, online, offline"),
    ):
        with pytest.raises(UserError, match=message):
            train(config, tmp_path / "run", seed=24)
    log_stability(LoggerConfig(name="wandb"), tmp_path, "sweep")  # nothing has been compared: nothing to log
    assert list(tmp_path.iterdir()) == []


def test_the_stability_run_holds_table_figures_and_curves_and_replaces_its_predecessor(tmp_path: Path) -> None:
    def record(init: str, l0: int, seeds: list[int], value: float) -> dict:
        figures = {name.removeprefix("stability/"): value for name in names.STABILITY}
        return {"init": init, "l0": l0, "seeds": seeds, **figures, "apart_dec": None}

    folder = tmp_path / "stability"
    (folder / "figures").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "figures/init=mirror.png")
    rows = [record("mirror", 40, [24, 42], 0.5), record("mirror", 40, [24, 7], 0.7), record("uniform", 20, [1, 2], 0.1)]
    rows[2]["drift_dec"] = None
    for content in (rows[:1], rows):
        (folder / "stability.json").write_text(json.dumps(content))
        log_stability(LoggerConfig(name="wandb"), tmp_path, "sweep")
        log_stability(LoggerConfig(name="csv"), tmp_path, "sweep")

    (run_folder,) = (folder / "wandb").glob("offline-run-*")
    written = records(run_folder)
    log_stability(LoggerConfig(name="wandb"), tmp_path, "sweep")  # unchanged: what was logged stays
    assert [*(folder / "wandb").glob("offline-run-*")] == [run_folder]
    found = records(run_folder)
    assert found[: len(written)] == written  # another run would have other times
    (run,) = of_kind(found, "run")
    assert (run.job_type, run.run_group) == ("stability", "sweep")
    assert [exit.exit_code for exit in of_kind(found, "exit")] == [0]
    first, second, media = logged(found)
    assert first[names.STABILITY_L0] == 20
    assert first["stability/same_match/uniform"] == 0.1
    assert "stability/drift_dec/uniform" not in first
    assert second["stability/same_match/mirror"] == pytest.approx(0.6)
    (table_file,) = run_folder.rglob("*.table.json")
    table = json.loads(table_file.read_text())
    assert table["columns"][:3] == ["init", "l0", "seeds"]
    assert [row[:3] for row in table["data"]][1] == ["mirror", 40, "[24, 7]"]
    assert media[f"{names.STABILITY_FIGURES}/captions"] == ["figures/init=mirror"]
    assert len(list(run_folder.rglob("*.png"))) == 1
