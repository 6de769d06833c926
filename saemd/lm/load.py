"""Find, describe and load causal language models, whole or only up to the layer that is wanted."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saemd.errors import bad_value
from saemd.lm.anatomy import decoder_layers, mlp_anatomy
from saemd.lm.config import LMConfig
from saemd.lm.packaged import converted


@dataclass(frozen=True)
class LMInfo:
    """What can be said of a model without loading its weights. `fingerprint` identifies them."""

    name: str
    d_model: int
    n_layers: int
    mlp_width: int  # m
    fingerprint: str


@dataclass(frozen=True)
class LM:
    model: nn.Module
    tokenizer: Any
    name: str
    d_model: int


def resolve(config: LMConfig, cache_root: Path) -> Path:
    """The local folder of the model's files, fetched (hub) or converted (packages) when needed.

    Raises `UserError` where the model cannot be had, with what to do about it.
    """
    if config.packages:
        return converted(config, cache_root)
    local = Path(config.name).expanduser()
    if (local / "config.json").is_file():
        return local
    if local.is_dir() or config.name.startswith((".", "/", "~")):
        raise bad_value("lm.name", config.name, "this folder has no config.json; name a saved transformers model")
    return _from_hub(config)


def _from_hub(config: LMConfig) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "tokenizer*", "*.model", "merges.txt", "vocab*"]
    try:
        return Path(snapshot_download(config.name, revision=config.revision, allow_patterns=patterns))
    except GatedRepoError as error:
        remedy = f"accept its licence on the hub's page of {config.name}, then set HF_TOKEN to your token"
        raise bad_value("lm.name", config.name, remedy) from error
    except HFValidationError as error:
        raise bad_value("lm.name", config.name, "neither a local folder nor a hub id (owner/name)") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        remedy = (
            f"the hub did not give it ({type(error).__name__}): check the name, the network and, for a gated model, "
            "that its licence is accepted and HF_TOKEN is set; or use a local folder with lm=hf lm.name=<folder>"
        )
        raise bad_value("lm.name", config.name, remedy) from error


def skeleton(folder: Path) -> nn.Module:
    """The model without its weights (meta device), for names and shapes."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"), _quiet():
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))


def lm_info(config: LMConfig, cache_root: Path) -> LMInfo:
    """Sizes from the model's configuration alone. Raises `UserError` for an architecture that is not known."""
    folder = resolve(config, cache_root)
    model = skeleton(folder)
    d_model, m = mlp_anatomy(model, 0).decoder.shape
    return LMInfo(config.name, d_model, len(decoder_layers(model)), m, _fingerprint(folder))


def load_lm(
    config: LMConfig,
    cache_root: Path,
    *,
    n_layers: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> LM:
    """The model in eval mode with its tokenizer; with `n_layers`, only the first so many decoder layers are built."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = resolve(config, cache_root)
    settings = AutoConfig.from_pretrained(folder)
    text = settings.get_text_config()
    if n_layers is not None:
        text.num_hidden_layers = n_layers
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:n_layers]
    with _quiet():
        model = AutoModelForCausalLM.from_pretrained(folder, config=settings, dtype=dtype).to(device).eval()
    return LM(model, AutoTokenizer.from_pretrained(folder), config.name, text.hidden_size)


@torch.inference_mode()
def residual_stream(model: nn.Module, layer: int, input_ids: Tensor) -> Tensor:
    """Output [B, T, d] of decoder layer `layer` for token ids [B, T], before any final norm; no logits are computed."""
    caught: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        caught.append(output[0] if isinstance(output, tuple) else output)

    handle = decoder_layers(model)[layer].register_forward_hook(keep)
    try:
        model.base_model(input_ids=input_ids.to(model.device), use_cache=False)  # type: ignore[operator,arg-type]
    finally:
        handle.remove()
    return caught[0]


def fastest_dtype(device: str = "cpu") -> torch.dtype:
    """bfloat16 where its matrix product is faster than float32's, measured here and now; else float32.

    CPUs without bfloat16 units emulate it, a hundred times slower.
    """
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.ones(128, 512, device=device, dtype=dtype), torch.ones(512, 512, device=device, dtype=dtype))
        for _ in range(3):  # the last one counts, warm
            started = time.perf_counter()
            (a @ b).sum().item()
            seconds[dtype] = time.perf_counter() - started
    return min(seconds, key=seconds.__getitem__)


def _fingerprint(folder: Path) -> str:
    """sha256 over config.json, and name, size and sixteen samples of every weight file."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with open(path, "rb") as file:
            for k in range(16):
                file.seek(k * size // 16)
                digest.update(file.read(65_536))
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' warnings on weights of the layers that are left out."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()
