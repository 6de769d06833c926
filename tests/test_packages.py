"""Archives out of a package index: fetched once, checked, and nothing kept of what is wrong."""

import hashlib
import threading
import time

import pytest

from saemd import packages
from saemd.errors import UserError
from saemd.packages import Package, fetch_package

CONTENT = b"an archive"
PACKAGE = Package("some", "1.0", hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def downloads(monkeypatch) -> list[str]:
    """The packages that were downloaded, each slowly and without a network."""
    asked: list[str] = []

    def download(package, folder):
        asked.append(package.name)
        time.sleep(0.2)
        (folder / "some.whl").write_bytes(CONTENT)
        return folder / "some.whl"

    monkeypatch.setattr(packages, "_download", download)
    return asked


def test_two_at_once_fetch_once(downloads, tmp_path):
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch_package(PACKAGE, tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "packages" / "some-1.0" / "some.whl"] * 2
    assert downloads == ["some"]
    assert found[0].read_bytes() == CONTENT


def test_another_content_is_refused_and_not_kept(downloads, tmp_path):
    with pytest.raises(UserError, match=f"package some==1.0: sha256 {PACKAGE.sha256} instead of 00; do not use"):
        fetch_package(Package("some", "1.0", "00"), tmp_path)
    assert not list(tmp_path.rglob("*.whl"))
    assert fetch_package(PACKAGE, tmp_path).name == "some.whl"
