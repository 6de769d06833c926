"""A model's fingerprint: the digest of every byte that decides its activations."""

import hashlib
import re
from pathlib import Path

from saemd.digests import digests
from saemd.errors import bad_value
from saemd.lm.config import LMConfig
from saemd.lm.files import local_folder, weight_paths
from saemd.lm.packaged import pins

# Besides the weights: what decides the model's shape, and the token ids of a text.
SETTINGS = [
    *["config*.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model"],
    "*.tiktoken",
]
_WEIGHTS = ["*.safetensors", "*.safetensors.index.json", "pytorch_model*"]


def fingerprint(config: LMConfig, folder: Path, cache_root: Path | None = None) -> str:
    """16 hex digits, the same on every machine and for every path of this model.

    They stand for a packaged model's pinned checksums, for a hub model's id and commit, and for the content of a local
    folder's `deciding_files`, whose digests are kept below `cache_root`. Raises `UserError` for a folder without all of
    its weights, or with unreadable files.
    """
    if config.packages:
        identity = pins(config)
    elif revision := _hub_revision(config, folder, cache_root):
        identity = revision
    else:
        paths = deciding_files(config, folder)
        contents = _digests(config, paths, cache_root)
        identity = "\n".join(f"{path.name} {content}" for path, content in zip(paths, contents, strict=True))
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def deciding_files(config: LMConfig, folder: Path) -> list[Path]:
    """The files that decide a saved model's activations, sorted: configuration, tokenizer, weights."""
    return sorted({*_matching(folder, SETTINGS), *weight_paths(config, folder)}, key=lambda path: path.name)


def _hub_revision(config: LMConfig, folder: Path, cache_root: Path | None) -> str | None:
    """`<id>@<commit>` of a snapshot in the hub's cache; None for any other folder.

    A snapshot holds links to blobs, which are named by their content's digest, so an edit shows. An edited folder that
    is named by its path is identified by its content. An edited hub id is refused (`UserError`), since the hub has no
    such model. On a disk without links a snapshot holds plain files, and the hub's cache is trusted.
    """
    repository = folder.parent.parent.name
    is_snapshot = folder.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", folder.name)
    if not is_snapshot or not repository.startswith("models--"):
        return None
    by_path = local_folder(config) is not None
    files = _matching(folder, SETTINGS + _WEIGHTS)
    if any(path.is_symlink() for path in files):
        if edited := _edited(config, files, folder.parent.parent / "blobs", cache_root):
            if by_path:
                return None
            remedy = (
                f"{edited[0]} was changed in the hub's cache: delete it to have it fetched again, or copy the folder "
                "elsewhere and name the copy with lm=hf lm.name=<folder>"
            )
            raise bad_value("lm.name", config.name, remedy)
    elif by_path:
        return None
    return f"{repository.removeprefix('models--').replace('--', '/')}@{folder.name}"


def _edited(config: LMConfig, files: list[Path], blobs: Path, cache_root: Path | None) -> list[Path]:
    """The files that are no links into `blobs`, or whose blob's content does not match its name."""
    edited, large = [], {}
    for path in files:
        blob = path.parent / path.readlink() if path.is_symlink() else path  # a blob may be a link itself
        if not blobs.is_dir() or not blob.parent.is_dir() or not blob.parent.samefile(blobs):
            edited.append(path)
        elif re.fullmatch("[0-9a-f]{64}", blob.name):  # of large files: sha256
            large[path] = blob.name
        elif re.fullmatch("[0-9a-f]{40}", blob.name):  # of small ones: git's own
            content = path.read_bytes()
            if hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() != blob.name:
                edited.append(path)
    contents = zip(large, _digests(config, [*large], cache_root), strict=True)
    return edited + [path for path, digest in contents if digest != large[path]]


def _matching(folder: Path, patterns: list[str]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def _digests(config: LMConfig, paths: list[Path], cache_root: Path | None) -> list[str]:
    try:
        return digests(paths, cache_root)
    except OSError as error:
        raise bad_value("lm.name", config.name, f"{error.filename} cannot be read ({error.strerror})") from error
