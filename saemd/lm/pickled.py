"""Checkpoints in `pytorch_model.bin`, such as OPT's on the hub: rewritten once as safetensors.

Then one reader serves all models, and single weights are read without the rest. A pickle can run code when it is read:
only tensors are read from it, and any other content is refused.
"""

from pathlib import Path

from saemd.lm.config import LMConfig
from saemd.lm.files import PICKLED, SHARDED, SINGLE, label, local_folder, resolve, weight_paths
from saemd.lm.identity import fingerprint
from saemd.lm.pretrained import quiet_transformers, read_model, read_settings, read_tokenizer
from saemd.once import made_once
from saemd.progress import bar


def with_safetensors(config: LMConfig, cache_root: Path, folder: Path) -> Path:
    """`folder` if it holds safetensors, else `cache_root/models/<name>-<fingerprint>`, written at the first call.

    Raises `UserError` for a folder without weights, and for a pickle that holds more than tensors.
    """
    if (folder / SINGLE).is_file() or (folder / SHARDED).is_file():
        return folder
    pickled = resolve(config, cache_root, PICKLED)
    weight_paths(config, pickled)  # refuses missing files before anything is written
    name = config.name.replace("/", "--") if local_folder(config) is None else label(config.name)
    made = cache_root / "models" / f"{name}-{fingerprint(config, pickled, cache_root)}"
    return made_once(made, lambda target: _rewrite(config, pickled, target))


def _rewrite(config: LMConfig, source: Path, target: Path) -> None:
    settings = read_settings(config, source)
    with bar(f"rewriting {config.name} as safetensors, once", total=1) as steps, quiet_transformers():
        read_model(config, source, config=settings, dtype="auto", use_safetensors=False).save_pretrained(target)
        read_tokenizer(config, source).save_pretrained(target)
        steps.advance()
