"""One machine at a time where several would write one folder of a store: a claim, an object that lapses.

`If-None-Match: *` and its like let one of two machines create it. The holder renews it every minute; one that was
killed loses it after five. A process on the machine of a dead holder takes it at once, as `saemd.locks` is held there.
"""

from __future__ import annotations

import json
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saemd.errors import UserError
from saemd.progress import print_line
from saemd.remote import store
from saemd.remote.urls import local_root, masked, upload_url

NAME = ".claim"
LAPSE_SECONDS, RENEW_SECONDS, POLL_SECONDS = 300.0, 60.0, 10.0
_WITHOUT = ("hf://",)  # a file is a commit there: renewing it would fill the history


@contextmanager
def claimed(folder: Path, taken: Callable[[str], object]) -> Iterator[None]:
    """Hold the claim of a folder that belongs to a store; any other needs none. The caller holds its local lock.

    If another machine holds it, `taken` is called with a line that says so. Then this one waits, unless `taken` raises.
    """
    url = upload_url(folder)
    if url is None or url.startswith(_WITHOUT):
        yield
        return
    claim = _Claim(f"{url}/{NAME}")
    is_reported = False
    while other := claim.take():
        if not is_reported:
            until = time.strftime("%H:%M:%S", time.localtime(other["until"]))
            what = f"the machine {other['machine']} writes there; its claim ends at {until} unless it is renewed"
            taken(f"{masked(url)}: {what}")
        is_reported = True
        time.sleep(POLL_SECONDS)
    ended = threading.Event()
    threading.Thread(target=claim.renew, args=(ended,), name="claim", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        claim.release()


def holder(folder: Path) -> str | None:
    """The other machine whose claim of the folder holds, as `the machine node3`; None without one."""
    url = upload_url(folder)
    if url is None or url.startswith(_WITHOUT):
        return None
    claim = _Claim(f"{url}/{NAME}")
    return f"the machine {other['machine']}" if (other := claim.other()) else None


class _Claim:
    def __init__(self, url: str) -> None:
        self.url, self.machine = url, _machine()
        self.fs, self.path = store.opened(url)
        self._writing = threading.Lock()

    def take(self) -> dict[str, Any] | None:
        """None where the claim is this machine's now; else what the other machine's says."""
        try:
            store.retried(self.url, lambda: self.fs.pipe_file(self.path, self._content(), mode="create"))
            return None
        except FileExistsError:
            if other := self.other():
                return other
        self._write()
        time.sleep(1)  # two machines may find a lapsed claim at once: the later one has it
        other = self._read()
        return other if other and other["id"] != self.machine else None

    def other(self) -> dict[str, Any] | None:
        """The claim of another machine, unless it has lapsed."""
        claim = self._read()
        return claim if claim and claim["id"] != self.machine and claim["until"] > time.time() else None

    def renew(self, ended: threading.Event) -> None:
        while not ended.wait(RENEW_SECONDS):
            try:
                with self._writing:
                    if not ended.is_set() and not self._is_lost():
                        self._write(store.CHECK_DELAYS)
            except UserError as error:  # uploads fail too then, and end the command
                print_line(str(error))

    def release(self) -> None:
        with self._writing:
            try:
                if not self._is_lost():
                    store.retried(self.url, lambda: self.fs.rm_file(self.path), store.CHECK_DELAYS)
            except store.MissingError:
                return
            except UserError as error:  # it lapses by itself
                print_line(str(error))

    def _is_lost(self) -> bool:
        """Whether another machine has taken the claim, as after this one was asleep. Then a line says so."""
        other = self._read(store.CHECK_DELAYS)
        if other is None or other["id"] == self.machine:
            return False
        print_line(f"{masked(self.url)}: the machine {other['machine']} has taken over; stop this command")
        return True

    def _write(self, delays: Sequence[float] | None = None) -> None:
        store.retried(self.url, lambda: self.fs.pipe_file(self.path, self._content()), delays)

    def _read(self, delays: Sequence[float] | None = None) -> dict[str, Any] | None:
        try:
            content = json.loads(store.retried(self.url, lambda: self.fs.cat_file(self.path), delays))
            return {"id": str(content["id"]), "machine": str(content["machine"]), "until": float(content["until"])}
        except store.MissingError:
            return None
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{masked(self.url)}: is no claim of saemd; remove it") from None

    def _content(self) -> bytes:
        claim = {"id": self.machine, "machine": platform.node(), "until": time.time() + LAPSE_SECONDS}
        return json.dumps(claim).encode()


def _machine() -> str:
    """A name of this machine's local copies, drawn once: host names repeat."""
    path = local_root() / ".machine"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(path, "x") as file:
            file.write(secrets.token_hex(8))
    except FileExistsError:
        pass
    return path.read_text()
