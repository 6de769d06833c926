"""What is kept of a batch of contexts, and the errors where that is nothing or no number."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from saemd.activations.disk.manifest import Origin, SplitName
from saemd.activations.disk.shards import count_non_finite, to_bits
from saemd.errors import UserError, bad_value

Forward = Callable[[Tensor], Tensor]  # input_ids [B, T] → activations [B, T, D]


def kept_bits(
    forward: Forward, ids_BT: Tensor, keep_BT: Tensor, origin: Origin, lm_dtype: str, purpose: str
) -> np.ndarray:
    """The activations of the kept tokens of a batch of contexts, in their order, as bfloat16 bits [N, D].

    Raises `UserError`, with what they are for (`purpose`), if they are NaN, infinite or of another width than `origin`
    says.
    """
    with torch.inference_mode():
        acts_BTD = forward(ids_BT)
        if acts_BTD.shape != (*ids_BT.shape, origin.d_in):
            raise bad_value("lm", origin.lm, f"activations {[*acts_BTD.shape]}, not of width {origin.d_in}")
        bits_ND = to_bits(acts_BTD[keep_BT.to(acts_BTD.device)])
    if bad := count_non_finite(bits_ND):
        remedy = f"{bad:,} of {bits_ND.size:,} values for {purpose} are NaN or infinite; use float32, or another layer"
        raise bad_value("activations.lm_dtype", lm_dtype, remedy)
    return bits_ND


def without_context(origin: Origin, split: SplitName, contexts: int = 0) -> UserError:
    """The error for a split without a token: it fills no context, or all tokens of its `contexts` were dropped."""
    if contexts:
        reason = f"all tokens of its {contexts:,} {split} contexts are special tokens or outliers"
        return bad_value("corpus", origin.corpus, f"{reason}; use text that the tokenizer of {origin.lm} knows")
    fraction = " a larger corpus.heldout_fraction," if split == "heldout" else ""
    reason = f"its {split} documents fill no context of {origin.context_length} tokens"
    remedy = f"more text,{fraction} or a smaller activations.context_length, is needed"
    return bad_value("corpus", origin.corpus, f"{reason}; {remedy}")
