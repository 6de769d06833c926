"""Read settings, tokenizers and weights through transformers. No code in a model's folder runs; errors are one line.

`config.json` is checked before transformers reads it, since the messages of transformers are pages long.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partialmethod
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from torch import Tensor, nn

from saemd.errors import UserError, bad_value
from saemd.lm.anatomy import refuse_unknown
from saemd.lm.config import LMConfig

_REASON_CHARACTERS = 200


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """In the block, transformers shows its errors alone. This file refuses what its warnings are about."""
    from tqdm import tqdm
    from transformers.utils import logging

    verbosity, bars, drawn = logging.get_verbosity(), logging.is_progress_bar_enabled(), tqdm.__init__
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tqdm.__init__ = partialmethod(drawn, disable=True)  # type: ignore[method-assign] - its GGUF reader obeys nothing else
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        tqdm.__init__ = drawn  # type: ignore[method-assign]
        if bars:
            logging.enable_progress_bar()


@contextmanager
def readable(config: LMConfig, what: str) -> Iterator[None]:
    """In the block, every error of transformers about the model's files becomes one `UserError`."""
    try:
        with quiet_transformers():
            yield
    except UserError:
        raise
    except UnpicklingError as error:
        remedy = (
            "a pickle that is damaged, or that holds more than tensors and could run code; take safetensors instead"
        )
        raise bad_value("lm.name", config.name, f"{what} are {remedy}") from error
    except Exception as error:  # of any kind: StrictDataclassError, UnpicklingError, tokenizers' bare Exception
        reason = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())[:_REASON_CHARACTERS]
        remedy = f"transformers cannot read {what} ({type(error).__name__}: {reason}); name a saved transformers model"
        raise bad_value("lm.name", config.name, remedy) from error


def read_settings(config: LMConfig, folder: Path) -> Any:
    """The model's configuration. Raises `UserError` for an unreadable config.json, and for an unknown architecture."""
    path = folder / "config.json"
    try:
        saved = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise bad_value("lm.name", config.name, f"{path} is not JSON ({error}); copy the file anew") from error
    if not isinstance(saved, dict) or not isinstance(saved.get("model_type"), str):
        raise bad_value("lm.name", config.name, f"{path} has no model_type; name a saved transformers model")
    refuse_unknown(saved["model_type"])
    if "transformers_weights" in saved:
        remedy = f"{path} asks for other weights (transformers_weights); save the model with save_pretrained"
        raise bad_value("lm.name", config.name, remedy)
    if (folder / "adapter_config.json").is_file():
        remedy = f"{folder} holds an adapter; merge it into its model (merge_and_unload) and save that"
        raise bad_value("lm.name", config.name, remedy)
    from transformers import AutoConfig

    with readable(config, str(path)):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def read_model(lm_config: LMConfig, folder: Path, **options: Any) -> Any:
    """The causal language model of `folder`; `options` are transformers'.

    transformers fills missing weights with random values, and warns. Here missing weights are a `UserError`, as are
    weights of another shape than config.json says, and pickles that hold more than tensors.
    """
    from transformers import AutoModelForCausalLM

    safe: dict[str, Any] = {"trust_remote_code": False, "weights_only": True}
    checked: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    with readable(lm_config, f"the weights in {folder}"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, **safe, **checked, **options)
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise bad_value("lm.name", lm_config.name, f"its files lack the weights {missing[0]}{more}; complete them")
    if mismatched := sorted(report["mismatched_keys"]):
        name, stored, wanted = mismatched[0]
        remedy = f"{name} has shape {[*stored]} in its files and {[*wanted]} by its config.json; save the model anew"
        raise bad_value("lm.name", lm_config.name, remedy)
    return model


def read_tokenizer(config: LMConfig, folder: Path) -> Any:
    """The tokenizer of `folder`. Raises `UserError` where it is missing, or needs code that transformers lacks."""
    from transformers import AutoTokenizer

    # Without these files transformers returns an empty tokenizer.
    if not any(any(folder.glob(pattern)) for pattern in ("tokenizer.*", "vocab.*", "*.model")):
        remedy = f"{folder} has no tokenizer; save it there with tokenizer.save_pretrained"
        raise bad_value("lm.name", config.name, remedy)
    with readable(config, f"the tokenizer in {folder}"):
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def refuse_ids_beyond(config: LMConfig, tokenizer: Any, embedding: nn.Module) -> None:
    """Raises `UserError` where the vocabulary, BOS or EOS has ids beyond the embedding's rows.

    Tokens that were added to the vocabulary may lie beyond, since text seldom holds them. Where it does, the model's
    forward pass raises the `UserError`, in the place of torch's index error.
    """
    weight: Any = embedding.weight
    rows = len(weight)
    beyond = {i: token for token, i in tokenizer.get_vocab().items() if i >= rows}
    if not beyond:
        return
    refused = (beyond.keys() - tokenizer.added_tokens_decoder.keys()) | (
        beyond.keys() & {tokenizer.bos_token_id, tokenizer.eos_token_id}
    )
    if refused:
        raise _beyond(config, rows, min(refused), beyond)

    def check(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if (largest := int(inputs[0].max())) >= rows:
            raise _beyond(config, rows, largest, beyond)

    embedding.register_forward_pre_hook(check)


def _beyond(config: LMConfig, rows: int, i: int, tokens: dict[int, str]) -> UserError:
    remedy = (
        f"its tokenizer gives id {i} ({tokens.get(i, 'unknown')!r}), its embedding has {rows} rows; "
        "take the tokenizer that the model was trained with, or resize_token_embeddings and save the model"
    )
    return bad_value("lm.name", config.name, remedy)
