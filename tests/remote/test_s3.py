"""The client of S3 against a server on the loopback, through connections that break.

Runs where s3fs and moto's server are installed: `make test-store` makes an environment that has them.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import fsspec
import pytest
import torch

from saemd.activations.disk import remote
from saemd.activations.disk.remote import fetch_records, open_cache
from saemd.errors import UserError
from saemd.remote import store
from saemd.remote.claims import claimed
from saemd.remote.urls import CACHE_ROOT, RUN_ROOT, local_folder
from tests.activations.caches import CONFIG, make, write
from tests.pipeline import same
from tests.remote.breaking_proxy import BreakingProxy
from tests.remote.conftest import objects

s3fs = pytest.importorskip("s3fs")
moto = pytest.importorskip("moto.server")

RUN = "init=mirror/l0=4/seed=0"
Machine = Callable[[str], None]
_numbers = count()  # of buckets: the server knows all that it has seen


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[int], None]:
    """Makes the server behind a port the one that s3fs finds, with another user's credentials than this machine's."""
    for name, value in (("ACCESS_KEY_ID", "user"), ("SECRET_ACCESS_KEY", "secret"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)  # saemd's own tries are the ones under test
    for name in ("CONFIG_FILE", "SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(f"AWS_{name}", str(tmp_path / "none"))

    def to(port: int) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        fsspec.get_filesystem_class("s3").clear_instance_cache()

    return to


@pytest.fixture
def bucket(port: int, connect: Callable[[int], None]) -> str:
    connect(port)
    name = f"bucket-{next(_numbers)}"
    fsspec.filesystem("s3").mkdir(name)
    return f"s3://{name}"


@pytest.fixture
def breaking(port: int, connect: Callable[[int], None], bucket: str, monkeypatch: pytest.MonkeyPatch):
    """From here on, one connection in four breaks."""
    monkeypatch.setattr(store, "DELAYS", (0.0,) * 8)
    monkeypatch.setattr(store, "CHECK_DELAYS", (0.0,) * 8)
    proxy = BreakingProxy(port, share=0.25)
    connect(proxy.port)
    yield proxy
    proxy.close()
    connect(port)


def test_a_cache_is_written_and_read_through_breaking_connections(
    bucket: str, breaking: BreakingProxy, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "BLOCK_BYTES", 4096)
    local = make(tmp_path / "cache", tokens=6000)
    parent = local_folder(CACHE_ROOT, f"{bucket}/caches") / "activations"
    parent.mkdir(parents=True)
    config = dataclasses.replace(CONFIG, tokens=6000, window_tokens=1024)
    write(parent / "tiny", config)
    machine("second")
    folder = local_folder(CACHE_ROOT, f"{bucket}/caches") / "activations" / "tiny"
    fetch_records(folder)
    local.window_tokens = 1024
    for ours, theirs in zip(open_cache(folder, config).stream(64, 6000, 0), local.stream(64, 6000, 0), strict=True):
        assert torch.equal(ours, theirs)
    assert breaking.cuts >= 5


@pytest.mark.slow
def test_a_connection_that_stays_broken_is_one_line_and_the_command_goes_on(
    world: list[str], bucket: str, port: int, connect: Callable[[int], None], command, machine: Machine,
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The server is away while the SAE trains, and is back for the second command, on another machine."""
    monkeypatch.setattr(store, "DELAYS", (0.0,))
    assert command(*world, "init=mirror", "seed=0", f"run_root={tmp_path / 'runs'}") == 0
    words = [word for word in world if not word.startswith("cache_root=")]
    words += ["init=mirror", "seed=0", f"cache_root={bucket}/caches", f"run_root={bucket}/runs"]
    words += ["checkpoint_minutes=1e-6"]
    proxy, uploads = BreakingProxy(port, share=0.0), 0
    upload = store.upload

    def leaving(path: Path, url: str) -> str:
        nonlocal uploads
        uploads += path.name == "last.ckpt"
        if uploads == 20:
            proxy.share = 1.0
            proxy.draw.randrange = lambda stop: 0  # type: ignore[method-assign]
        return upload(path, url)

    connect(proxy.port)
    with monkeypatch.context() as patch:
        patch.setattr(store, "upload", leaving)
        capsys.readouterr()
        assert command(*words) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(error) == 1
    assert "the same command goes on" in error[0]
    assert "secret" not in error[0]
    connect(port)
    left = objects(f"{bucket}/runs/{RUN}")
    assert {*left} - {".claim"} == {"config.yaml", "last.ckpt"}
    fsspec.filesystem("s3").rm_file(f"{bucket}/runs/{RUN}/.claim")  # as its lapse would
    machine("second")
    assert command(*words) == 0
    assert same(local_folder(RUN_ROOT, f"{bucket}/runs/{RUN}"), tmp_path / "runs" / RUN)
    assert {"metrics.json", "sae_weights.safetensors", "cfg.json", "latents.npz"} <= {*objects(f"{bucket}/runs/{RUN}")}


def test_a_claim_is_created_only_once(bucket: str, machine: Machine) -> None:
    folder = f"{bucket}/runs/init=a"

    def refuse(line: str) -> None:
        raise UserError(line)

    with claimed(local_folder(RUN_ROOT, folder), refuse):
        machine("second")
        with pytest.raises(UserError, match=f"^{folder}: the machine"), claimed(local_folder(RUN_ROOT, folder), refuse):
            pass
    with claimed(local_folder(RUN_ROOT, folder), refuse):
        pass


@pytest.mark.parametrize(
    ("url", "said"),
    [("s3://no-such-bucket/x", "no such bucket"), ("s3://NO!/x", "refuses the name")],
)
@pytest.mark.parametrize("writes", [True, False])
def test_a_bucket_that_is_not_there_is_refused(bucket: str, url: str, said: str, writes: bool) -> None:
    with pytest.raises(UserError, match=rf"^run_root={url}: .*{said}"):
        store.check_store("run_root", url, writes=writes)


def test_missing_credentials_and_rights_are_refused_without_showing_them(
    bucket: str, connect: Callable[[int], None], port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
            patch.delenv(f"AWS_{name}")
        connect(port)
        with pytest.raises(UserError, match="no credentials for the store"):
            store.check_store("run_root", f"{bucket}/runs", writes=True)
    connect(port)
    s3 = fsspec.filesystem("s3")

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(s3, "pipe_file", forbidden)
    with pytest.raises(UserError, match=r"refuses access \(Access Denied\); check the credentials and their rights"):
        store.check_store("run_root", f"{bucket}/runs", writes=True)


def test_versions_of_a_listing_and_of_an_upload_agree(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    version = store.upload(tmp_path / "a", f"{bucket}/x/a")
    assert version == store.version_of(store.listed(f"{bucket}/x")["a"])
    assert version == store.download(f"{bucket}/x/a", tmp_path / "b")
