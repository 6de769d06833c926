"""Caches that an earlier version wrote, renamed to today's fingerprint where the model is provably the same.

A local folder's fingerprint was once a digest of sixteen samples of its weights. A cache with such a fingerprint is
today's cache if no file of the model has changed since the cache was begun. Then it is renamed, not written again.
This file can go once nobody keeps a cache written before December 2026.
"""

import dataclasses
import hashlib
import os
from pathlib import Path

from saemd.activations.disk.manifest import MANIFEST, PROGRESS, Origin, read_manifest, write_json
from saemd.errors import UserError
from saemd.lm.config import LMConfig
from saemd.lm.files import local_folder
from saemd.lm.identity import deciding_files
from saemd.progress import print_line
from saemd.remote.urls import upload_url


def take_over(folder: Path, origin: Origin, config: LMConfig) -> None:
    """Rename the finished cache that an earlier version wrote of `origin`, if there is one, to `folder`.

    If it cannot be shown to be of the same model, it stays where it is, and a line says why. The caller holds
    `folder`'s lock. The manifest is replaced before the folder is renamed, so the next call can finish after a kill.
    """
    local = local_folder(config)
    if local is None or folder.exists() or upload_url(folder):
        return
    formerly = dataclasses.replace(origin, lm_fingerprint=sampled(config, local))
    for old in sorted(folder.parent.glob(f"*-layer{origin.layer}-{formerly.fingerprint[:12]}")):
        if not (old / MANIFEST).is_file():
            if (old / PROGRESS).is_file():
                print_line(f"{old}, which an earlier version left unfinished, is not used; it can be deleted")
            continue
        if reason := _rename(old, folder, formerly, origin, local):
            print_line(f"{old} is left unused, and the cache is written anew: {reason}")
        else:
            print_line(f"{old}, of the same model, is now {folder}")
            return


def _rename(old: Path, folder: Path, formerly: Origin, origin: Origin, local: Path) -> str | None:
    """Why the cache was not renamed; None where it was."""
    try:
        manifest = read_manifest(old)
    except UserError as error:
        return str(error)
    if manifest.fingerprint != origin.fingerprint:  # else a kill came between the two steps
        if manifest.fingerprint != formerly.fingerprint or manifest.origin.fingerprint != formerly.fingerprint:
            return "its manifest is another cache's"
        if reason := _unproven(old, manifest.origin.lm, local):
            return reason
        manifest.fingerprint = origin.fingerprint
        manifest.origin = dataclasses.replace(manifest.origin, lm_fingerprint=origin.lm_fingerprint)
        write_json(old / MANIFEST, manifest)
    os.replace(old, folder)
    return None


def _unproven(old: Path, name: str, local: Path) -> str | None:
    """Why the model in `local` may differ from that of the cache in `old`; None where it is the same."""
    written = Path(name).expanduser()
    if not written.is_absolute() or written.absolute() != local.absolute():
        return f"it is of lm.name={name}, and only the same absolute path proves the same model"
    lock = old.with_name(f".{old.name}.lock")  # taken before the model was loaded, long before the first shard
    begun = min(path.stat().st_mtime_ns for path in (*old.iterdir(), lock) if path.exists())
    files = deciding_files(LMConfig(name), local)
    changed = [path for path in (local, *files) if max(_times(path)) >= begun]
    return f"{changed[0]} changed after it was begun" if changed else None


def _times(path: Path) -> list[int]:
    """Modification and change times in ns, of a link and of its target. A folder's show added and removed files."""
    return [time for status in (path.lstat(), path.stat()) for time in (status.st_mtime_ns, status.st_ctime_ns)]


def sampled(config: LMConfig, folder: Path) -> str:
    """The earlier fingerprint: of config.json, and of name, size and sixteen samples of every weight file."""
    if folder.parent.name == "snapshots":
        return hashlib.sha256(f"{config.name}@{folder.name}".encode()).hexdigest()[:16]
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with open(path, "rb") as file:
            for k in range(16):
                file.seek(k * size // 16)
                digest.update(file.read(65_536))
    return digest.hexdigest()[:16]
