"""SAEBench's AutoInterp against a local endpoint: any judge, its nonsense counted. Needs `make saebench`."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from saemd.errors import UserError
from saemd.quality.saebench.evaluations.autointerp import AutoInterpSettings
from tests.quality.saebench.real import NEEDS_SAEBENCH, SMALL, World, measure

pytestmark = NEEDS_SAEBENCH


class Judge(BaseHTTPRequestHandler):
    """An OpenAI-compatible endpoint: explains everything alike, answers nonsense to every `nonsense`-th question."""

    nonsense = 3
    asked: ClassVar[list[dict[str, Any]]] = []
    keys: ClassVar[set[str]] = set()
    scored = 0

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked.append(request)
        type(self).keys.add(self.headers["Authorization"])
        reply: str | None = "This neuron activates on words."
        if "comma-separated" in request["messages"][0]["content"]:
            type(self).scored += 1
            reply = (
                "1, 2, 5" if self.scored % self.nonsense else ("I think it is the first" if self.scored % 2 else None)
            )
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": reply}}
        answer = {"id": "1", "object": "chat.completion", "created": 0, "model": request["model"], "choices": [choice]}
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    Judge.asked, Judge.keys, Judge.scored, Judge.nonsense = [], set(), 0, 3
    monkeypatch.setenv("JUDGE_KEY", "secret")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def autointerp(world: World, base_url: str, **more: Any) -> AutoInterpSettings:
    return AutoInterpSettings(
        **SMALL, text=str(world.data / "corpus"), base_url=base_url, judge="local-judge", key_variable="JUDGE_KEY",
        n_latents=12, total_tokens=6000, llm_context_size=64, **more,
    )  # fmt: skip


def test_autointerp_asks_any_endpoint_and_counts_what_it_cannot_parse(world, judge):
    (outcome,) = measure(world, "autointerp", autointerp(world, judge), world.run)
    assert outcome.status == "done", outcome.reason
    assert {request["model"] for request in Judge.asked} == {"local-judge"}
    assert Judge.keys == {"Bearer secret"}
    assert outcome.details["replies"] == Judge.scored
    assert outcome.details["replies_not_parsed"] == Judge.scored // 3 > 0
    assert "I think it is the first" in outcome.details["not_parsed"]
    assert outcome.repetitions == Judge.scored - Judge.scored // 3  # the latents that were scored
    work = Path(outcome.details["results"][0]).parents[2]
    assert not [path for path in work.rglob("*") if path.is_file() and b"secret" in path.read_bytes()]


def test_a_judge_that_answers_nonsense_alone_has_no_score(world, judge):
    Judge.nonsense = 1
    (outcome,) = measure(world, "autointerp", autointerp(world, judge), world.run)
    assert outcome.status == "failed"
    assert outcome.reason is not None
    assert f"{Judge.scored} of {Judge.scored} replies are no list of numbers" in outcome.reason


def test_less_text_than_autointerp_wants_names_the_key(world, judge):
    chosen = replace(autointerp(world, judge), total_tokens=10**9)
    (outcome,) = measure(world, "autointerp", chosen, world.run)
    assert outcome.status == "failed"
    assert outcome.reason is not None
    assert outcome.reason.startswith("saebench_autointerp.total_tokens=1000000000: the text has fewer tokens")
    assert not Judge.asked


def test_a_missing_endpoint_or_key_is_one_line(world, monkeypatch, judge):
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(UserError, match="key_variable=JUDGE_KEY: not set"):
        measure(world, "autointerp", autointerp(world, judge), world.run)
    monkeypatch.setenv("JUDGE_KEY", "secret")
    (outcome,) = measure(world, "autointerp", autointerp(world, "http://127.0.0.1:9/v1"), world.run)
    assert (
        outcome.reason == "base_url=http://127.0.0.1:9/v1: cannot be reached; name the /v1 address of a running server"
    )
