"""The same figures as SAEBench's own functions, sooner. Imported in SAEBench's environment alone.

On two cores SAEBench's passes over padding, over texts that it has seen before and through layers whose output nobody
reads take most of an evaluation. Each function here gives what the one that it stands in for gives, up to the order of
sums: `tests/test_saebench_packaged.py` holds them together. Shapes: B texts, L tokens of a text, D d_in, F latents.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from sae_bench.evals.scr_and_tpp import main as scr_and_tpp
from sae_bench.sae_bench_utils import activation_collection
from sae_probes import generate_model_activations
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm
from transformer_lens import HookedTransformer

from saemd.quality.saebench.models import layers
from saemd.quality.saebench.replaced import replaced

PLAIN_LAST_TOKENS = generate_model_activations._process_activations
PLAIN_ACTIVATIONS = activation_collection.get_all_llm_activations
USUAL = 128  # tokens of a text that SAEBench's batch sizes are meant for
MOST_KEPT = 16  # of `Ablated`'s texts: the classes of a data set
SHAPES = 32  # lengths come in multiples of it: products of new shapes take time to prepare
MOST_BYTES = 1 << 30  # of `LastTokens`' activations: those of all sets take half of it with 576 dimensions


@contextmanager
def fast() -> Iterator[None]:
    """Within, SAEBench uses the functions below."""
    with (
        replaced(activation_collection, get_all_llm_activations=all_llm_activations),
        replaced(scr_and_tpp, ablated_precomputed_activations=Ablated()),
        replaced(generate_model_activations, _process_activations=LastTokens()),
    ):
        yield


@torch.no_grad()
def all_llm_activations(
    tokenized: dict[str, dict[str, Tensor]], model: HookedTransformer, batch_size: int, layer: int, hook_name: str,
    mask_bos_pad_eos_tokens: bool = False,
) -> dict[str, Tensor]:  # fmt: skip
    """Class → [B, L, D], as `get_all_llm_activations`: each text once, and no further than its batch's longest.

    SCR's classes share texts. Padding comes after a text and its activations are zeroed, so nothing before it changes;
    the same texts in other batches do give other last digits.
    """
    if not mask_bos_pad_eos_tokens:
        return PLAIN_ACTIVATIONS(tokenized, model, batch_size, layer, hook_name)
    ids_BL = torch.cat([tokens["input_ids"] for tokens in tokenized.values()])
    unique_BL, place_B = torch.unique(ids_BL, dim=0, return_inverse=True)
    keep_BL = activation_collection.get_bos_pad_eos_mask(unique_BL, model.tokenizer)
    lengths_B = (keep_BL * torch.arange(1, unique_BL.shape[1] + 1, device=keep_BL.device)).amax(1)
    lengths_B, order_B = lengths_B.clamp(min=1).sort()
    found_BLD = torch.zeros(*unique_BL.shape, model.cfg.d_model, dtype=model.cfg.dtype, device=unique_BL.device)
    for start, end in tqdm(_batches(lengths_B.tolist(), batch_size * unique_BL.shape[1]), desc="language model"):
        batch, longest = order_B[start:end], int(lengths_B[end - 1])

        def keep(resid_BLD: Tensor, hook: Any, batch: Tensor = batch, longest: int = longest) -> None:
            found_BLD[batch, :longest] = resid_BLD * keep_BL[batch, :longest, None]

        model.run_with_hooks(unique_BL[batch, :longest], stop_at_layer=layer + 1, fwd_hooks=[(hook_name, keep)])
    sizes = [len(tokens["input_ids"]) for tokens in tokenized.values()]
    return {name: found_BLD[places] for name, places in zip(tokenized, place_B.split(sizes), strict=True)}


def _batches(lengths: list[int], room: int) -> list[tuple[int, int]]:
    """Start and end of batches of ascending lengths, each of `room` tokens at most when padded to its last."""
    found, start = [], 0
    for end, length in enumerate(lengths):
        if (end - start + 1) * length > room and end > start:
            found.append((start, end))
            start = end
    return [*found, (start, len(lengths))]


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


class Residual:
    """A HookedTransformer as sae-probes asks it, for the output of one layer alone: by transformers' own layers.

    Fused attention and nothing kept on the way take a seventh of the time at 1,024 tokens in bfloat16.
    """

    def __init__(self, model: HookedTransformer, layer: int, folder: Path) -> None:
        self._model, self._layer, self._folder = model, layer, folder
        self._plain: Any = None  # loaded when first needed: kept activations need none

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def run_with_cache(
        self, tokens_BL: Tensor, names_filter: list[str], stop_at_layer: int
    ) -> tuple[None, dict[str, Tensor]]:
        """Hook → [B, L, D]. Padding must come after a text: no mask is given."""
        wanted = f"blocks.{self._layer}.hook_resid_post"
        assert (names_filter, stop_at_layer) == ([wanted], self._layer + 1)
        if self._plain is None:
            self._plain = layers(self._folder, stop_at_layer, str(self.cfg.device), self.cfg.dtype)
        found: list[Any] = []  # what the model itself returns has passed its final norm
        hook = self._plain.layers[-1].register_forward_hook(lambda _, __, output: found.append(output))
        length = tokens_BL.shape[1]
        with hook:
            self._plain(functional.pad(tokens_BL, (0, -length % SHAPES)), use_cache=False)
        x_BLD = found[0][0] if isinstance(found[0], tuple) else found[0]
        return None, {wanted: x_BLD[:, :length]}


class LastTokens:
    """Hook → [B, D], as sae-probes' `_process_activations`: texts of one length together, short ones more at once.

    Half of the tokens of its 113 data sets are of texts that another set has too (one set a class of the same news):
    they pass the model once. Float32, whatever the model's precision: sae-probes goes on in numpy.
    """

    def __init__(self) -> None:
        self._found: list[dict[str, Tensor]] = []  # of each call
        self._place: dict[bytes, tuple[int, int]] = {}  # a text's digest → its call and row
        self._kept = 0  # bytes

    def __call__(
        self, model: HookedTransformer, texts: list[str], batch_size: int, max_seq_len: int, **options: Any
    ) -> dict[str, Tensor]:
        keys = [hashlib.sha256(text.encode()).digest() for text in texts]
        fresh = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._place}
        found, place = self._found, self._place
        if fresh:
            passed = _last_tokens(model, list(fresh.values()), batch_size, max_seq_len, **options)
            place = place | {key: (len(found), row) for row, key in enumerate(fresh)}
            found = [*found, passed]
            if self._kept < MOST_BYTES:
                self._found, self._place = found, place
                self._kept += sum(x_BD.nbytes for x_BD in passed.values())
        rows = [place[key] for key in keys]
        return {name: torch.stack([found[call][name][row] for call, row in rows]) for name in options["hook_names"]}


def _last_tokens(
    model: HookedTransformer, texts: list[str], batch_size: int, max_seq_len: int, **options: Any
) -> dict[str, Tensor]:
    lengths = torch.tensor(generate_model_activations._get_text_lengths(model, texts)).clamp(max=max_seq_len)
    lengths_B, order_B = lengths.sort()
    found: dict[str, list[Tensor]] = {}
    for start, end in tqdm(_batches(lengths_B.tolist(), batch_size * min(max_seq_len, USUAL)), desc="language model"):
        some = [texts[i] for i in order_B[start:end]]
        passed = PLAIN_LAST_TOKENS(model=model, texts=some, batch_size=len(some), max_seq_len=max_seq_len, **options)
        for name, x_BD in passed.items():
            found.setdefault(name, []).append(x_BD.float())
    return {name: torch.cat(parts)[order_B.argsort()] for name, parts in found.items()}
