"""Progress where stderr is a file: few plain lines, and the same for every entry."""

import contextlib
import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from tqdm import tqdm
from tqdm.auto import tqdm as auto

from saemd import progress
from saemd.lm.config import LMConfig
from saemd.lm.files import resolve
from saemd.lm.pretrained import quiet_transformers
from saemd.progress import bar, duration, lines
from saemd.quality.saebench import caller, gemma_scope
from saemd.report.table import print_table
from tests.quality.saebench.scripted import measure, scripted, worker_job


@pytest.fixture
def quick(monkeypatch) -> None:
    """Two seconds and a minute, in a hundredth of the time."""
    monkeypatch.setattr(progress, "SHORT_SECONDS", 0.02)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.5)


@pytest.fixture
def log(monkeypatch) -> io.StringIO:
    """What the lines are written to."""
    written = io.StringIO()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=written))
    return written


def wait_for(log: io.StringIO, text: str, count: int = 1) -> None:
    """Until the log has the text so many times."""
    deadline = time.monotonic() + 30
    while log.getvalue().count(text) < count:
        assert time.monotonic() < deadline, log.getvalue()
        time.sleep(0.005)


def test_a_long_part_says_its_start_a_line_a_minute_and_its_end(quick, log):
    with bar("matching", total=90, done=30, unit="matchings") as running:
        running.note("init=mirror l0=40")
        wait_for(log, "started")
        running.advance(30)
        wait_for(log, "60 of 90")
        running.advance(30)
    first, *minutes, last = log.getvalue().splitlines()
    assert first == "matching: started, 30 of 90 matchings  init=mirror l0=40"
    minute = r"matching: 60 of 90 matchings, 67 %, \d\.\d s, about \d+ s left  init=mirror l0=40"
    assert any(re.fullmatch(minute, line) for line in minutes), minutes
    assert re.fullmatch(r"matching: done, \d\.\d s, 90 of 90 matchings", last), last


def test_a_silent_process_shows_nothing(quick, log, monkeypatch):
    """As every process but the first one of several that write one cache."""
    monkeypatch.setattr(progress, "_silent", False)
    for name in progress.NO_BARS:
        monkeypatch.setenv(name, "")
    progress.be_silent()
    progress.print_line("a line")
    with bar("activations", total=2) as running, lines("other", total=2):
        running.advance(2)
        time.sleep(0.1)
    assert log.getvalue() == ""


def test_a_step_that_takes_longer_than_a_minute_does_not_silence_the_lines(quick, log, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.1)
    began = time.monotonic()
    with bar("random floor", total=1):
        wait_for(log, "\n", 4)
    took = time.monotonic() - began
    said = log.getvalue().splitlines()
    assert said[0] == "random floor: started"
    assert len(said[1:-1]) <= took / 0.1  # and no more than one a minute
    assert all(re.fullmatch(r"random floor: \d\.\d s", line) for line in said[1:-1])
    assert said[-1].startswith("random floor: done, ")


def test_a_short_part_says_one_line(capsys):
    with bar("drawing", total=3, unit="figures") as running:
        running.advance(3)
    with lines("core", total=8):
        pass
    assert re.fullmatch(r"drawing: done, \d\.\d s, 3 of 3 figures\n", capsys.readouterr().err)


@pytest.mark.parametrize("said_before", [0, 1])
def test_a_part_that_breaks_says_how_far_it_came(log, said_before, monkeypatch):
    monkeypatch.setattr(progress, "SHORT_SECONDS", 0.02 if said_before else 60)

    def broken() -> None:
        with bar("core measures", total=8, unit="batches") as running:
            running.note("seed=1")
            running.advance(2)
            wait_for(log, "started", said_before)
            raise KeyboardInterrupt

    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        broken()
    assert threading.active_count() == threads
    said = log.getvalue().splitlines()
    assert len(said) == 2 * said_before  # the error of a short part says enough
    assert all(
        re.fullmatch(r"core measures: stopped after \d\.\d s, 2 of 8 batches  seed=1", line) for line in said[1:]
    )


def test_lines_fit_120_columns_and_keep_their_figures(capsys):
    with bar("rewriting " + "/long/path" * 30, total=None, unit="bytes") as running:
        running.advance(1234)
    (said,) = capsys.readouterr().err.splitlines()
    assert len(said) == 120
    assert re.search(r"\.\.\.: done, \d\.\d s, 1,234 bytes$", said)


def test_more_than_all_is_all(capsys):
    """The last shard's tokens are counted before they are cut to what is wanted."""
    with bar("activations", total=100) as running:
        running.advance(128)
    assert re.fullmatch(r"activations: done, \d\.\d s, 100 of 100\n", capsys.readouterr().err)


def test_durations_read_as_people_say_them():
    said = [duration(seconds) for seconds in (0.04, 9.96, 59.4, 62, 3599.6, 7500)]
    assert said == ["0.0 s", "10 s", "59 s", "1 min 02 s", "1 h 00 min", "2 h 05 min"]


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_terminal_that_can_redraw_gets_a_bar(term, monkeypatch):
    """Control codes go to a terminal alone, and to none that cannot follow them."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", term)
    controller, terminal = pty.openpty()
    with open(terminal, "w") as stderr, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        with bar("matching", total=2) as running:
            running.advance(2)
    written = b""
    with contextlib.suppress(OSError):  # how a terminal says that it was closed
        while part := os.read(controller, 65536):
            written += part
    shown = written.decode()
    assert ("\x1b[" in shown) == ("━" in shown) == (term == "xterm")
    assert "matching" in shown


def test_a_notebook_gets_a_bar_that_is_renewed_in_place(monkeypatch, capsys):
    """As plain text in the cell's output, which is saved with the notebook and needs no widgets."""
    shown: list[str] = []

    def display(content: dict[str, str], raw: bool, display_id: bool = True) -> Any:
        shown.append(content["text/plain"])
        return SimpleNamespace(update=display)

    monkeypatch.setattr(progress, "is_notebook", lambda: True)
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0.05)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    began = time.monotonic()
    with bar("matching", total=1000) as running:
        running.note("seed=1")
        for _ in range(1000):
            running.advance()
        time.sleep(0.06)
        running.note("seed=2")
    assert len(shown) < 10 + (time.monotonic() - began) / 0.05  # not once a step
    assert re.fullmatch(r"matching +0% 0:00:\d\d -:--:--", shown[0])
    assert re.fullmatch(r"matching ━{24} 100% 0:00:\d\d 0:00:00 seed=2", shown[-1])
    assert capsys.readouterr().err == ""


BARS = """printf 'bars off: %s\\r50 %%' "$TQDM_DISABLE$HF_HUB_DISABLE_PROGRESS_BARS" >&2"""


def test_saebenchs_worker_draws_its_bars_on_a_terminal_alone(tmp_path, monkeypatch, capfd):
    scripted(monkeypatch, tmp_path, BARS)
    for name in progress.NO_BARS:
        monkeypatch.delenv(name, raising=False)
    for drawn, said in ((False, ""), (True, "bars off: \r50 %")):
        monkeypatch.setattr(caller, "is_drawn", lambda drawn=drawn: drawn)
        list(caller.run_worker(worker_job(tmp_path)))
        assert capfd.readouterr().err == said
        assert (tmp_path / "log.txt").read_bytes() == (b"" if drawn else b"bars off: 11\r50 %")


def test_saebenchs_progress_is_a_line_for_each_minute_of_its_saes(quick, log, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.2)
    failed = [
        {"name": label * 16 + f"-{i}", "error": "no luck", "not_applicable": False} for i, label in enumerate("ab")
    ]
    lines = (r"0 of 2 SAEs, 0 %, \d\.\d s  init=a l0=4 seed=0", r"1 of 2 SAEs, 50 %, .* left  init=b l0=4 seed=0")

    def let_the_saes_fail() -> None:
        """Each one as soon as a line is about it."""
        for i in range(2):
            wait_for(log, f"{i} of 2 SAEs, {50 * i} %")
            (tmp_path / f"fail-{i}").touch()

    wait = [f"until [ -e {tmp_path / f'fail-{i}'} ]; do sleep 0.02; done" for i in range(2)]
    script = "\n".join(f"{wait[i]}; echo '{json.dumps(event)}'" for i, event in enumerate(failed))
    watching = threading.Thread(target=let_the_saes_fail)
    watching.start()
    measure(monkeypatch, tmp_path, script)
    watching.join()
    first, *minutes, last = log.getvalue().splitlines()
    assert first == "SAEBench's unlearning: started, 0 of 2 SAEs  init=a l0=4 seed=0"
    for line in lines:
        assert any(re.fullmatch(f"SAEBench's unlearning: {line}", minute) for minute in minutes), minutes
    assert re.fullmatch(r"SAEBench's unlearning: done, \d+\.\d s, 2 of 2 SAEs", last)


@pytest.mark.parametrize("columns", ["80", "300"])
def test_a_table_in_a_file_cuts_no_figure_and_names_its_starts(columns, monkeypatch):
    """Seeds go up to 2**32 - 1; COLUMNS is a terminal's."""
    monkeypatch.setenv("COLUMNS", columns)
    record: Any = {
        "init": "mirror-with-a-gain", "l0": 320, "seeds": [4294967294, 4294967295], "same_start_dec": True,
        "same_start_enc": False, "alive": 18432, "d_sae": 18432, "achieved_l0": [1234.0, 1234.0],
        "fvu": [12.125, 12.125],
        **dict.fromkeys(
            ("mean_cos_dec", "drift_dec", "mean_cos_enc", "drift_enc", "random_floor", "same_match", "shared"), -0.25
        ),
    }  # fmt: skip
    written = io.StringIO()
    print_table([record], Console(file=written))
    (row,) = (line.split() for line in written.getvalue().splitlines() if "mirror" in line)
    figures = ["-0.25"] * 7
    assert row == ["mirror-with-a-gain", "320", "4294967294-4294967295", "*", *figures, "100%", "1234", "12.125"]


@pytest.mark.slow
def test_every_entry_writes_plain_lines_to_a_file(world, tmp_path):
    """Without control codes, with each part's end, and in a few kB; a sweep that is finished has no parts."""
    runs, cache_root = tmp_path / "runs", f"cache_root={tmp_path / 'cache'}"
    here = [*(word for word in world if not word.startswith("cache_root=")), cache_root]
    sweep = ["-m", *here, f"run_root={runs}", "init=uniform", "seed=0,1"]
    said = {
        "cache": logged(tmp_path, "saemd.cache", *here),
        "train": logged(tmp_path, "saemd.train", *sweep),
        "again": logged(tmp_path, "saemd.train", *sweep),
        "stability": logged(tmp_path, "saemd.stability", f"run_root={runs}"),
        "evaluate": logged(tmp_path, "saemd.evaluate", f"run_root={runs}", cache_root, "core.tokens=500"),
        "export": logged(tmp_path, "saemd.export", f"run_root={runs}", f"out={tmp_path / 'out'}"),
    }
    ends = {
        "cache": ["activations"],
        "train": ["init=uniform l0=4 seed=0", "init=uniform l0=4 seed=1", "matching", "drawing"],
        "again": [],
        "stability": [],
        "evaluate": ["language model, clean and ablated", "core measures"],
        "export": ["exporting"],
    }
    for entry, log in said.items():
        assert not set(log) & {"\r", "\x1b", "━", "█"}, log
        done = re.findall(r"^(.+): done, [\d.]+ (?:s|min \d\d s)(?:, [\d,]+ of [\d,]+ \w+)?$", log, re.MULTILINE)
        assert set(ends[entry]) <= set(done), log
        assert ends[entry] or not done, log
        assert len(log.encode()) < 4000, log


def logged(folder: Path, *command: str) -> str:
    """What a command writes into a file that takes both of its streams."""
    with open(folder / "log", "w+", newline="") as log:
        ran = subprocess.run([sys.executable, "-m", *command], stdout=log, stderr=subprocess.STDOUT)
        log.seek(0)
        text = log.read()
    assert ran.returncode == 0, text
    return text


@pytest.mark.parametrize("seconds", [0, 0.1])
def test_a_download_from_the_hub_is_said_where_it_takes_time(seconds, capsys, monkeypatch, tmp_path):
    """What is there already is asked for many times, and none of them is worth a line."""
    monkeypatch.setattr(progress, "SHORT_SECONDS", 0.02 if seconds else 60)

    def slow(*_: Any, **__: Any) -> str:
        time.sleep(seconds)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", slow)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", slow)
    assert resolve(LMConfig("owner/name"), tmp_path) == gemma_scope.locate(82) == tmp_path
    said = capsys.readouterr().err.splitlines()
    names = ["owner/name", f"google/gemma-scope-2b-pt-res's {gemma_scope.member(82)}"]
    expected = [f"fetching {name} from the hub: {state}" for name in names for state in ("started", "done")]
    assert [line.split(",")[0] for line in said] == (expected if seconds else [])


def test_transformers_draws_no_bar_of_any_kind_while_it_is_quiet(capsys):
    """Its GGUF reader uses tqdm's own class, which its switch does not reach."""
    from transformers.utils import logging

    with quiet_transformers():
        assert [*tqdm(range(2)), *auto(range(2)), *logging.tqdm(range(2))] == [0, 1] * 3
    assert capsys.readouterr().err == ""
    list(tqdm(range(2)))
    assert "2/2" in capsys.readouterr().err
