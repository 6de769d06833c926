"""Progress of everything that takes longer than two seconds: bars on a terminal and in a notebook, lines in a file."""

import io
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 60.0  # between two lines about one part
SHORT_SECONDS = 2.0  # a part that ends sooner prints one line
LINE_WIDTH = 120  # characters
REDRAW_SECONDS = 0.25  # of a bar in a notebook
# Switches off the bars of tqdm, the hub and datasets, in a process that has not imported them yet.
NO_BARS = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}


_silent = False


def be_silent() -> None:
    """Show no bar and print no line from now on: for one of several processes that report the same work."""
    global _silent
    _silent = True
    os.environ.update(NO_BARS)


def print_line(line: str) -> None:
    """Print one line on stderr."""
    if not _silent:
        print(line, file=sys.stderr, flush=True)


class Bar:
    """One running part: `advance(n)` and `note(text)`. This one shows nothing."""

    def advance(self, amount: float = 1) -> None:
        return None

    def note(self, text: str) -> None:
        return None


@contextmanager
def bar(description: str, total: float | None, done: float = 0, unit: str = "") -> Iterator[Bar]:
    """A part of `total` units (None: unknown), `done` of which are finished already; `unit` is their plural name.

    On a terminal or in a notebook it is a bar, redrawn in place. Elsewhere it is lines without control codes: one at
    the start, one every `LINE_SECONDS`, and one at the end with the time. A part shorter than `SHORT_SECONDS` prints
    only the last line, so that many short parts do not fill a log, and none if it fails, since the error is printed.
    """
    if _silent:
        part = nullcontext(Bar())
    elif is_notebook():
        part = _displayed(description, total, done)
    elif is_drawn():
        part = _drawn(description, total, done)
    else:
        part = _Lines(description, total, done, unit)
    with part as running:
        yield running


@contextmanager
def lines(description: str, total: float | None, unit: str = "") -> Iterator[Bar]:
    """As `bar`, for a part that draws its own bars on a terminal: only the lines, and none for a short part."""
    if _silent or is_drawn():
        yield Bar()
    else:
        with _Lines(description, total, 0, unit, prints_short=False) as running:
            yield running


def is_drawn() -> bool:
    """Whether stderr is a terminal that redraws bars in place, as rich finds."""
    console = Console(stderr=True)
    return console.is_terminal and console.is_interactive and not console.is_jupyter


def is_notebook() -> bool:
    return Console().is_jupyter


def quiet_libraries() -> None:
    """Switch off the bars of other libraries where bars are not drawn. To be called before they are imported."""
    if not is_drawn():
        os.environ.update(NO_BARS)


class _Drawn(Bar):
    """One bar of rich, on `console`."""

    def __init__(self, console: Console, description: str, total: float | None, done: float) -> None:
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
        )
        self._task = self.progress.add_task(description, total=total, completed=done, note="")  # type: ignore[arg-type]

    def advance(self, amount: float = 1) -> None:
        self.progress.advance(self._task, amount)

    def note(self, text: str) -> None:
        self.progress.update(self._task, note=text)


@contextmanager
def _drawn(description: str, total: float | None, done: float) -> Iterator[Bar]:
    running = _Drawn(Console(stderr=True), description, total, done)
    with running.progress:
        yield running


class _Displayed(_Drawn):
    """A bar as text in the output of a notebook's cell, where it stays when the notebook is saved. Needs no widgets."""

    def __init__(self, description: str, total: float | None, done: float) -> None:
        from IPython.display import display  # type: ignore[import-not-found]  # a notebook's own

        console = Console(file=io.StringIO(), width=LINE_WIDTH, color_system=None, force_jupyter=False)
        super().__init__(console, description, total, done)
        self._handle = display(self._content(), raw=True, display_id=True)
        self._shown = time.monotonic()

    def advance(self, amount: float = 1) -> None:
        super().advance(amount)
        self.show(REDRAW_SECONDS)

    def note(self, text: str) -> None:
        super().note(text)
        self.show(REDRAW_SECONDS)

    def show(self, after_seconds: float = 0) -> None:
        """Renew the text, at most once in so many seconds."""
        if time.monotonic() - self._shown >= after_seconds:
            self._handle.update(self._content(), raw=True)
            self._shown = time.monotonic()

    def _content(self) -> dict[str, str]:
        console = self.progress.console
        with console.capture() as text:
            console.print(self.progress.get_renderable())
        return {"text/plain": text.get().rstrip()}


@contextmanager
def _displayed(description: str, total: float | None, done: float) -> Iterator[Bar]:
    running = _Displayed(description, total, done)
    try:
        yield running
    finally:
        running.show()


class _Lines(Bar):
    """The lines of one part. A thread prints them, so that a part with long steps still prints one a minute."""

    def __init__(
        self, description: str, total: float | None, done: float, unit: str, *, prints_short: bool = True
    ) -> None:
        self._description, self._total, self._first, self._unit = description, total, done, unit
        self._completed, self._note, self._prints_short, self._is_long = done, "", prints_short, False
        self._began, self._ended = time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._write, name=f"progress of {description}", daemon=True)

    def __enter__(self) -> Bar:
        self._thread.start()
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if error_type is None and (self._is_long or self._prints_short):
            self._say("done", duration(self._elapsed), *self._counts())
        elif error_type is not None and self._is_long:
            self._say(f"stopped after {duration(self._elapsed)}", *self._counts(), note=self._note)

    def advance(self, amount: float = 1) -> None:
        self._completed += amount
        if self._total is not None:
            self._completed = min(self._completed, self._total)

    def note(self, text: str) -> None:
        self._note = text

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _write(self) -> None:
        if self._ended.wait(SHORT_SECONDS):
            return
        self._is_long = True
        self._say("started", *self._counts(), note=self._note)
        while not self._ended.wait(LINE_SECONDS):
            self._say(*self._counts(), *self._share(), duration(self._elapsed), *self._left(), note=self._note)

    def _counts(self) -> list[str]:
        """`4 of 90 pairs`; empty for a part of one step."""
        if self._total == 1:
            return []
        of = "" if self._total is None else f" of {_number(self._total)}"
        return [f"{_number(self._completed)}{of} {self._unit}".rstrip()] if of or self._completed else []

    def _share(self) -> list[str]:
        return [f"{self._completed / self._total:.0%}".replace("%", " %")] if self._total and self._total != 1 else []

    def _left(self) -> list[str]:
        new = self._completed - self._first
        if not self._total or self._total == 1 or new <= 0:
            return []
        return [f"about {_roughly((self._total - self._completed) * self._elapsed / new)} left"]

    def _say(self, *figures: str, note: str = "") -> None:
        ending = ": " + ", ".join(figures)
        line = _cut(self._description, LINE_WIDTH - len(ending)) + ending
        if note:
            line = _cut(f"{line}  {note}", LINE_WIDTH)
        print_line(line)


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `1 min 02 s`, `2 h 05 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def _roughly(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 3] + "..."
