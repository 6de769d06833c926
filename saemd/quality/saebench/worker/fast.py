"""Faster functions in place of SAEBench's own, with the same results up to the order of sums.

On two cores most of an evaluation's time goes into passes over padding, over texts that were passed before, and through
layers whose output nobody reads. `tests/quality/saebench/test_fast.py` compares each function with the one that it
replaces. Shapes: B texts, L tokens of a text, D d_in, F latents.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from sae_bench.evals.scr_and_tpp import main as scr_and_tpp
from sae_bench.sae_bench_utils import activation_collection
from sklearn.linear_model import LogisticRegression
from threadpoolctl import ThreadpoolController
from torch import Tensor
from tqdm import tqdm
from transformer_lens import HookedTransformer

from saemd.quality.saebench.worker.residual import Residual, batches

PLAIN_ACTIVATIONS = activation_collection.get_all_llm_activations
MOST_KEPT = 16  # tensors of texts in `Ablated`: the classes of a data set


@contextmanager
def fast(residual: Residual) -> Iterator[None]:
    """Within, SAEBench uses the functions below."""
    activations = functools.partial(all_llm_activations, residual)
    with (
        patch.multiple(activation_collection, get_all_llm_activations=activations),
        patch.multiple(scr_and_tpp, ablated_precomputed_activations=Ablated()),
    ):
        yield


@contextmanager
def fits_on_one_thread() -> Iterator[None]:
    """Within, scikit-learn's `LogisticRegression.fit` uses one thread; nothing else changes.

    A probe has a thousand rows: threads wait for each other longer than they work, even more so beside another process.
    """
    fit, pools = LogisticRegression.fit, ThreadpoolController()

    def fit_on_one_thread(self: LogisticRegression, *arguments: Any, **named: Any) -> LogisticRegression:
        with pools.limit(limits=1):
            return fit(self, *arguments, **named)

    with patch.multiple(LogisticRegression, fit=fit_on_one_thread):
        yield


@torch.no_grad()
def all_llm_activations(
    residual: Residual, tokenized: dict[str, dict[str, Tensor]], model: HookedTransformer, batch_size: int, layer: int,
    hook_name: str, mask_bos_pad_eos_tokens: bool = False,
) -> dict[str, Tensor]:  # fmt: skip
    """Class → [B, L, D], as `get_all_llm_activations`: each text once, and no further than its batch's longest.

    SCR's classes share texts. Padding comes after a text and its activations are zeroed, so nothing before it changes;
    the same texts in other batches do give other last digits.
    """
    if not mask_bos_pad_eos_tokens or hook_name != residual.hook_name:
        return PLAIN_ACTIVATIONS(tokenized, model, batch_size, layer, hook_name)
    ids_BL = torch.cat([tokens["input_ids"] for tokens in tokenized.values()])
    unique_BL, place_B = torch.unique(ids_BL, dim=0, return_inverse=True)
    keep_BL = activation_collection.get_bos_pad_eos_mask(unique_BL, model.tokenizer)
    lengths_B = (keep_BL * torch.arange(1, unique_BL.shape[1] + 1, device=keep_BL.device)).amax(1)
    lengths_B, order_B = lengths_B.clamp(min=1).sort()
    x_BLD = torch.zeros(*unique_BL.shape, model.cfg.d_model, dtype=model.cfg.dtype, device=unique_BL.device)
    for start, end in tqdm(batches(lengths_B.tolist(), batch_size * unique_BL.shape[1]), desc="language model"):
        batch, longest = order_B[start:end], int(lengths_B[end - 1])
        x_BLD[batch, :longest] = residual(unique_BL[batch, :longest]) * keep_BL[batch, :longest, None]
    sizes = [len(tokens["input_ids"]) for tokens in tokenized.values()]
    return {name: x_BLD[places] for name, places in zip(tokenized, place_B.split(sizes), strict=True)}


class Ablated:
    """[B, D], as `ablated_precomputed_activations`: texts' mean activations with some latents at zero, the error kept.

    With x̂ = z W_dec + b_dec and the error x − x̂ added again, zeroing the latents A takes Σ_A z W_dec from x, whose mean
    over a text needs the sum of z over its tokens alone. SAEBench asks for the same texts again with each set of
    latents: their sums are kept while the SAE is the same.
    """

    def __init__(self) -> None:
        self._sae: Any = None
        self._sums: dict[int, tuple[Tensor, ...]] = {}  # by the identity of a tensor that is kept alive with them

    @torch.no_grad()
    def __call__(self, ablation_acts_BLD: Tensor, sae: Any, to_ablate: Tensor, sae_batch_size: int) -> Tensor:
        key = id(ablation_acts_BLD)
        if sae is not self._sae or len(self._sums) == MOST_KEPT:
            self._sae, self._sums = sae, {}
        if key not in self._sums:
            batches = ablation_acts_BLD.split(sae_batch_size)
            z_BF = torch.cat([sae.encode(batch_BLD).sum(1, dtype=torch.float32) for batch_BLD in batches])
            x_BD = ablation_acts_BLD.sum(1, dtype=torch.float32)
            tokens_B = (ablation_acts_BLD.sum(2) != 0).sum(1)
            self._sums[key] = ablation_acts_BLD, x_BD, z_BF, tokens_B
        _, x_BD, z_BF, tokens_B = self._sums[key]
        changed_BD = x_BD - z_BF[:, to_ablate] @ sae.W_dec[to_ablate].float()
        return (changed_BD / tokens_B[:, None]).to(ablation_acts_BLD.dtype)
