"""URLs and their local folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from saemd.arguments import folder
from saemd.errors import UserError
from saemd.remote.urls import CACHE_ROOT, RUN_ROOT, local_folder, masked, recorded, root_of, upload_url, url_of


@pytest.mark.parametrize(
    "url", ["s3://bucket", "s3://bucket/sweeps/big one", "gs://b/models/x", "hf://datasets/me/runs/a=b"]
)
@pytest.mark.parametrize("key", [CACHE_ROOT, RUN_ROOT])
def test_a_url_and_its_local_folder_follow_from_each_other(url: str, key: str) -> None:
    local = local_folder(key, f"{url}/")
    assert local.name == url.rsplit("/", 1)[1]  # names of sweeps, as W&B shows them, are the URL's
    assert url_of(local) == url == recorded(str(local))
    assert url_of(local / "init=a" / "metrics.json") == f"{url}/init=a/metrics.json"
    assert root_of(local / "init=a") == local


def test_the_url_of_a_run_lies_below_that_of_its_run_root() -> None:
    run = "init=mirror/l0=40/seed=24"
    assert local_folder(RUN_ROOT, f"s3://b/runs/{run}") == local_folder(RUN_ROOT, "s3://b/runs") / run


def test_a_folder_of_this_machine_is_itself(tmp_path: Path) -> None:
    assert local_folder(RUN_ROOT, str(tmp_path)) == tmp_path
    assert url_of(tmp_path) is upload_url(tmp_path / "x") is None
    assert recorded("runs") == "runs"


def test_only_activations_of_a_cache_root_are_uploaded() -> None:
    root = local_folder(CACHE_ROOT, "s3://b/c")
    assert upload_url(root / "activations" / "x" / "manifest.json") == "s3://b/c/activations/x/manifest.json"
    assert upload_url(root / "packages" / "x.whl") is upload_url(root / "digests.json") is None
    assert upload_url(root / "activations" / "x" / ".partial-1-a.bin") is None


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("file:///runs", "write its path"),
        ("s3://", "name a bucket"),
        ("s3://b/../c", "name a bucket"),
        ("s3://b//c", "name a bucket"),
        ("s3://key:secret@b/c", "leave the credentials out"),
        ("gs://b/c?token=secret", "leave the credentials out"),
    ],
)
def test_a_url_that_names_no_folder_is_refused_without_its_credentials(url: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        folder("run_root", url)
    assert str(refused.value).startswith("run_root=")
    assert "secret" not in str(refused.value)


def test_signatures_are_masked() -> None:
    assert masked("get https://a.b/c?X-Signature=secret failed") == "get https://a.b/c… failed"
