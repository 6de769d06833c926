"""The W&B workspace as code: built offline, of metrics that training really logs, and saved where an account is."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from saemd.logging import names
from saemd.logging.dashboard import build_workspace, main
from tests.logging.trained import TRAIN

pytest.importorskip("wandb_workspaces")


def panels() -> list[dict[str, Any]]:
    sections = build_workspace("entity", "project")._spec["spec"]["section"]["panelBankConfig"]["sections"]
    return [panel for section in sections for panel in section["panels"]]


def metrics_of(panel: dict[str, Any]) -> set[str]:
    """Every metric or config key a panel reads, as it is logged."""
    config = panel["config"]
    read = {config.get("xAxis"), config.get("yAxis"), config.get("zAxis"), *config.get("metrics", [])} - {None}
    read |= set(config.get("mediaKeys", []))
    if "metricRegex" in config:
        read.add(re.sub(r"^\^|/\.\*$", "", config["metricRegex"]))
    return {re.sub(r"^summary:", "", name) for name in read}


def test_panels_read_metrics_that_are_logged_and_leave_none_out() -> None:
    known = {names.TOKENS, *TRAIN, *names.FINAL, names.STABILITY_L0, names.STABILITY_FIGURES, *names.STABILITY}
    read = set().union(*map(metrics_of, panels()))
    assert read - known == {f"config:{names.CONFIG_L0}.value"}
    assert known - read == set()
    (table,) = [json.dumps(panel) for panel in panels() if "Weave" in panel["viewType"]]
    assert names.STABILITY_TABLE in table


def test_the_questions_a_researcher_asks_have_a_panel() -> None:
    by_title = {panel["config"].get("chartTitle"): panel for panel in panels()}
    frontier = by_title["FVU against achieved L0"]
    assert frontier["viewType"] == "Scatter Plot"
    assert (frontier["config"]["xAxis"], frontier["config"]["yAxis"]) == ("summary:final/l0", "summary:final/fvu")
    thresholds = by_title["Threshold quantiles"]["config"]
    assert thresholds["xAxis"] == names.TOKENS
    assert thresholds["metrics"] == [f"train/threshold_q{quantile}" for quantile in ("05", "50", "95")]
    shared = by_title["Shared features"]["config"]
    assert shared["xAxis"] == names.STABILITY_L0
    assert re.match(shared["metricRegex"], "stability/shared/mirror")
    assert not re.match(shared["metricRegex"], "stability/shared_threshold/mirror")

    (runset,) = build_workspace("entity", "project")._spec["spec"]["section"]["runSets"]
    assert [key["name"] for key in runset["grouping"]] == ["init.value.label", "l0.value"]


@pytest.fixture
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in [name for name in os.environ if name.startswith("WANDB_")] + ["NETRC"]:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "wandb login"),
        (["projekt=x"], "projekt=x: known are project=…, entity=…, name=…"),
        (["project="], "project=: is empty"),
    ],
)
@pytest.mark.usefixtures("no_account")
def test_without_an_account_the_command_says_so_in_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A stand-in for the W&B server: knows its user, takes a project and a view, keeps what was sent."""
    sent: list[dict[str, Any]] = []
    answers = {
        "upsertView": {"upsertView": {"view": {"id": "1", "name": "nw-abc-v"}, "inserted": True}},
        "upsertModel": {"result": {"project": None, "model": None, "inserted": True}},
        "viewer": {"viewer": {"id": "1", "entity": "someone", "username": "someone"}},
    }

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path != "/graphql":
                self.send_error(404)
                return
            sent.append(json.loads(body))
            data = next(answer for word, answer in answers.items() if word in sent[-1]["query"])
            reply = json.dumps({"data": data}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: Any) -> None:  # pytest's output stays clean
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}", sent
        http.shutdown()


@pytest.mark.usefixtures("no_account")
def test_with_an_account_the_command_saves_the_view_and_prints_its_address(
    server: tuple[str, list[dict[str, Any]]],
) -> None:
    address, sent = server
    environment = os.environ | {"WANDB_BASE_URL": address, "WANDB_API_KEY": "x" * 40, "WANDB_ERROR_REPORTING": "false"}
    command = [sys.executable, "-m", "saemd.logging.dashboard", "project=stable"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{address}/someone/stable?nw=abc"
    (view,) = [request["variables"] for request in sent if "upsertView" in request["query"]]
    assert (view["entityName"], view["projectName"]) == ("someone", "stable")
    assert "FVU against achieved L0" in view["spec"]
