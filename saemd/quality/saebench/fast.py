"""The same figures as SAEBench's own functions, sooner. Imported in SAEBench's environment alone.

On two cores SAEBench's passes over padding, over texts that it has seen before and through layers whose output nobody
reads take most of an evaluation. Each function here gives what the one that it stands in for gives, up to the order of
sums: `tests/test_saebench_packaged.py` holds them together. Shapes: B texts, L tokens of a text, D d_in, F latents.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from sae_bench.evals.scr_and_tpp import main as scr_and_tpp
from sae_bench.sae_bench_utils import activation_collection
from torch import Tensor
from tqdm import tqdm
from transformer_lens import HookedTransformer

from saemd.quality.saebench.batches import batches
from saemd.quality.saebench.replaced import replaced
from saemd.quality.saebench.residual import Residual

PLAIN_ACTIVATIONS = activation_collection.get_all_llm_activations
MOST_KEPT = 16  # of `Ablated`'s texts: the classes of a data set


@contextmanager
def fast(residual: Residual) -> Iterator[None]:
    """Within, SAEBench uses the functions below."""
    activations = functools.partial(all_llm_activations, residual)
    with (
        replaced(activation_collection, get_all_llm_activations=activations),
        replaced(scr_and_tpp, ablated_precomputed_activations=Ablated()),
    ):
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
    found_BLD = torch.zeros(*unique_BL.shape, model.cfg.d_model, dtype=model.cfg.dtype, device=unique_BL.device)
    for start, end in tqdm(batches(lengths_B.tolist(), batch_size * unique_BL.shape[1]), desc="language model"):
        batch, longest = order_B[start:end], int(lengths_B[end - 1])
        found_BLD[batch, :longest] = residual(unique_BL[batch, :longest]) * keep_BL[batch, :longest, None]
    sizes = [len(tokens["input_ids"]) for tokens in tokenized.values()]
    return {name: found_BLD[places] for name, places in zip(tokenized, place_B.split(sizes), strict=True)}


class Ablated:
    """[B, D], as `ablated_precomputed_activations`: texts' mean activations with some latents at zero, the error kept.

    With x̂ = z W_dec + b_dec and the error x − x̂ added again, zeroing the latents A takes Σ_A z W_dec from x, whose mean
    over a text needs the sum of z over its tokens alone. SAEBench asks for the same texts again with each set of
    latents: their sums are kept while the SAE is the same.
    """

    def __init__(self) -> None:
        self._sae: Any = None
        self._known: dict[int, tuple[Tensor, ...]] = {}  # by the identity of a tensor that is kept alive with them

    @torch.no_grad()
    def __call__(self, ablation_acts_BLD: Tensor, sae: Any, to_ablate: Tensor, sae_batch_size: int) -> Tensor:
        key = id(ablation_acts_BLD)
        if sae is not self._sae or len(self._known) == MOST_KEPT:
            self._sae, self._known = sae, {}
        if key not in self._known:
            batches = ablation_acts_BLD.split(sae_batch_size)
            z_BF = torch.cat([sae.encode(batch_BLD).sum(1, dtype=torch.float32) for batch_BLD in batches])
            x_BD = ablation_acts_BLD.sum(1, dtype=torch.float32)
            tokens_B = (ablation_acts_BLD.sum(2) != 0).sum(1)
            self._known[key] = ablation_acts_BLD, x_BD, z_BF, tokens_B
        _, x_BD, z_BF, tokens_B = self._known[key]
        changed_BD = x_BD - z_BF[:, to_ablate] @ sae.W_dec[to_ablate].float()
        return (changed_BD / tokens_B[:, None]).to(ablation_acts_BLD.dtype)


class FirstLetters:
    """A HookedTransformer as Absorption asks it: for one position of one layer, and the same prompts for every SAE.

    It goes no further than this layer (the logits are dropped), and keeps what it has found.
    """

    def __init__(self, model: HookedTransformer, layer: int, position: int) -> None:
        assert position < 0
        self._model, self._layer, self._position = model, layer, position
        self._known: dict[tuple[str, ...], dict[str, Tensor]] = {}  # prompts → hook → [B, D]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def run_with_cache(self, prompts: list[str], names_filter: list[str]) -> tuple[None, dict[str, Tensor]]:
        """The activations [B, -position, D], of which the first, the one that is read, stands at all positions."""
        key = tuple(prompts)
        if key not in self._known:
            stop = self._layer + 1
            _, cache = self._model.run_with_cache(prompts, names_filter=names_filter, stop_at_layer=stop)
            self._known[key] = {name: cache[name][:, self._position].clone() for name in names_filter}
        return None, {name: x_BD[:, None].expand(-1, -self._position, -1) for name, x_BD in self._known[key].items()}


@functools.lru_cache(maxsize=1)
def first_letters(model: HookedTransformer, layer: int, position: int) -> FirstLetters:
    """The same one for all SAEs of a job."""
    return FirstLetters(model, layer, position)
