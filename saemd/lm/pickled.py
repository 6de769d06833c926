"""Checkpoints kept as `pytorch_model.bin` (OPT's on the hub, for one): rewritten once as safetensors.

One reader for all models, and single weights can then be read without the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from saemd.errors import bad_value
from saemd.lm.config import LMConfig
from saemd.lm.files import PICKLED, fingerprint, resolve
from saemd.lm.quiet import quiet_transformers
from saemd.once import made_once
from saemd.progress import bar


def with_safetensors(config: LMConfig, cache_root: Path, folder: Path) -> Path:
    """`folder` where it holds safetensors; else `cache_root/models/<name>-<fingerprint>`, rewritten when not there.

    Raises `UserError` where there is neither kind of weights.
    """
    if (folder / "model.safetensors").is_file() or (folder / "model.safetensors.index.json").is_file():
        return folder
    pickled = resolve(config, cache_root, PICKLED)
    if not any(pickled.glob("pytorch_model*.bin")):
        remedy = f"no model.safetensors in {folder}; load the model with transformers and save_pretrained it as one"
        raise bad_value("lm.name", config.name, remedy)
    name = f"{config.name.strip('/').replace('/', '--')}-{fingerprint(config, pickled)}"
    return made_once(cache_root / "models" / name, lambda target: _rewrite(config, pickled, target))


def _rewrite(config: LMConfig, source: Path, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with bar(f"rewriting {config.name} as safetensors, once", total=1) as steps, quiet_transformers():
        loaded: Any = AutoModelForCausalLM.from_pretrained(source, dtype="auto", output_loading_info=True)
        model, found = loaded
        refuse_missing(config, found)
        model.save_pretrained(target)
        AutoTokenizer.from_pretrained(source).save_pretrained(target)
        steps.advance()


def refuse_missing(config: LMConfig, found: dict[str, Any]) -> None:
    """transformers fills weights that its files lack with random values, and warns; here that is an error."""
    if missing := sorted(found["missing_keys"]):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise bad_value("lm.name", config.name, f"its files lack the weights {missing[0]}{more}; complete them")
