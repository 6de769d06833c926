"""The part of the core measures that depends on the language model alone, computed once: clean pass and ablations.

They are a folder of batches on disk, so an interrupted pass continues. Shape suffixes: B contexts in a batch, T tokens
in a context, D d_in.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from saemd.corpus.pack import Context
from saemd.files import read_tensors, remove_partial, replacing, save_tensors
from saemd.lm.patch import clean_pass, token_losses, upper_states
from saemd.progress import Bar, bar
from saemd.quality.bench import Bench

ABLATIONS = ("zero", "mean", "zero_everywhere", "zero_ordinary")


@dataclass(frozen=True)
class Batch:
    """Contexts with their clean pass. A position counts if it is not special and has a next token."""

    ids: Tensor  # int64 [B, T]
    patch: Tensor  # bool [B, T]: positions that are patched, all but special ones (BOS, EOS, padding)
    x: Tensor  # float32 [B, T, D], the layer's output
    states: Tensor  # float32 [B, T, D], the head's input
    ce: Tensor  # float32 [B, T-1], clean, on the CPU

    @property
    def counts(self) -> Tensor:
        """bool [B, T-1]: positions whose losses are averaged; their input tokens are not special."""
        return self.patch[:, :-1].cpu()

    def per_context(self, losses_BT: Tensor) -> Tensor:
        """Sums [B] in float64 over the positions that count."""
        return (losses_BT.double() * self.counts).sum(1)


@dataclass(frozen=True)
class Baseline:
    """The batches on disk, and figures of all of them together."""

    folder: Path
    contexts: int
    batches: int
    device: str
    limit: float  # tokens whose norm exceeds it are outliers: massive activations, dropped from training
    outliers: int  # tokens, special ones left out
    tokens: int  # patched ones, with outliers
    mean: Tensor  # [D], float32, over the tokens that are neither special nor outliers

    def __iter__(self) -> Iterator[Batch]:
        for index in range(self.batches):
            yield _read(self.folder, index, self.device)

    def ordinary(self, batch: Batch) -> Tensor:
        """bool [B, T]: neither special nor an outlier."""
        return batch.patch & (batch.x.norm(dim=-1) <= self.limit)

    def ablated(self, index: int) -> dict[str, Tensor]:
        """`ce_<ablation>` [B, T-1] of each of `ABLATIONS`, and `kl_zero`."""
        return read_tensors(_path(self.folder, "ablated", index))


def make_baseline(bench: Bench, tokens: int, outlier_factor: float | None) -> Baseline:
    """The clean pass and the ablations over `tokens` tokens of held-out text; only missing batches are computed.

    Ablations: at the positions of `Batch.patch` the layer's output is replaced by 0 (`zero`) or by the mean (`mean`);
    `zero_everywhere` replaces it at special tokens too, as SAEBench does; `zero_ordinary` leaves outliers clean. Raises
    `UserError` where there is less held-out text.
    """
    n = tokens // bench.context_length
    at_once = max(1, bench.activations.lm_batch_tokens // bench.context_length)
    batches = -(-n // at_once)
    factor = "all" if outlier_factor is None else f"{outlier_factor:g}"
    folder = bench.folder(f"core-{n}x{at_once}-{factor}")
    steps = batches * len(ABLATIONS)  # zero_ordinary takes next to no time
    if any(not _path(folder, kind, index).is_file() for kind in ("clean", "ablated") for index in range(batches)):
        contexts = bench.contexts("core.tokens", tokens)  # loads model and corpus, which may show bars of their own
        remove_partial(folder)  # one process at a time measures this score
        with bar("language model, clean and ablated", total=steps, unit="passes") as progress:
            for index in range(batches):
                _write_clean(bench, folder, index, contexts[index * at_once : (index + 1) * at_once])
                progress.advance()
            baseline = _describe(folder, n, batches, bench.device, outlier_factor)
            for index in range(batches):
                _write_ablated(bench, baseline, index, progress)
        return baseline
    return _describe(folder, n, batches, bench.device, outlier_factor)


def _write_clean(bench: Bench, folder: Path, index: int, contexts: list[Context]) -> None:
    path = _path(folder, "clean", index)
    if path.is_file():
        return
    ids_BT = torch.stack([context.input_ids for context in contexts]).to(bench.device)
    patch_BT = torch.stack([context.keep for context in contexts])
    x_BTD, states_BTD = clean_pass(bench.lm.model, bench.layer, ids_BT)
    ce_BT, _ = token_losses(bench.lm.model, ids_BT, states_BTD)
    tensors = {"ids": ids_BT.cpu(), "patch": patch_BT, "x": x_BTD.cpu(), "states": states_BTD.cpu(), "ce": ce_BT}
    with replacing(path) as partial:
        save_tensors(tensors, partial)


def _write_ablated(bench: Bench, baseline: Baseline, index: int, progress: Bar) -> None:
    path = _path(baseline.folder, "ablated", index)
    if path.is_file():
        progress.advance(len(ABLATIONS) - 1)
        return
    batch = _read(baseline.folder, index, bench.device)
    zero_BTD = torch.zeros_like(batch.x)
    inputs = {
        "zero": _where(batch.patch, zero_BTD, batch.x),
        "mean": _where(batch.patch, baseline.mean, batch.x),
        "zero_everywhere": zero_BTD,
    }
    losses: dict[str, Tensor] = {}
    for name, residual_BTD in inputs.items():
        states_BTD = upper_states(bench.lm.model, bench.layer, batch.ids, residual_BTD)
        clean_BTD = batch.states if name == "zero" else None
        losses[f"ce_{name}"], kl_BT = token_losses(bench.lm.model, batch.ids, states_BTD, clean_BTD)
        if kl_BT is not None:
            losses[f"kl_{name}"] = kl_BT
        progress.advance()
    losses["ce_zero_ordinary"] = outliers_clean(
        bench.lm.model, bench.layer, baseline, batch, zero_BTD, losses["ce_zero"]
    )
    with replacing(path) as partial:
        save_tensors(losses, partial)


def outliers_clean(
    model: nn.Module, layer: int, baseline: Baseline, batch: Batch, replacement_BTD: Tensor, ce_BT: Tensor
) -> Tensor:
    """CE [B, T-1] with outliers left clean, as special tokens are; `ce_BT` is the CE with outliers replaced.

    Only contexts that hold an outlier are run again: in the others nothing changes.
    """
    ordinary_BT = baseline.ordinary(batch)
    with_outliers_B = (batch.patch & ~ordinary_BT).any(1)
    ce_BT = ce_BT.clone()
    if with_outliers_B.any():
        x_BTD, ids_BT = batch.x[with_outliers_B], batch.ids[with_outliers_B]
        residual_BTD = _where(ordinary_BT[with_outliers_B], replacement_BTD[with_outliers_B], x_BTD)
        states_BTD = upper_states(model, layer, ids_BT, residual_BTD)
        ce_BT[with_outliers_B.cpu()], _ = token_losses(model, ids_BT, states_BTD)
    return ce_BT


def _path(folder: Path, kind: str, index: int) -> Path:
    return folder / f"{kind}-{index:05d}.safetensors"


def _where(mask_BT: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(mask_BT[..., None], a, b)


def _read(folder: Path, index: int, device: str) -> Batch:
    tensors = read_tensors(_path(folder, "clean", index))
    ids, patch, x, states = (tensors[name].to(device) for name in ("ids", "patch", "x", "states"))
    return Batch(ids, patch, x, states, tensors["ce"])


def _describe(folder: Path, n: int, batches: int, device: str, outlier_factor: float | None) -> Baseline:
    """Reads the batches twice: the norms for the limit, then the mean of the tokens within it. No pass of the model."""
    norms = torch.cat([(b := _read(folder, i, "cpu")).x[b.patch].norm(dim=-1) for i in range(batches)])
    limit = float("inf") if outlier_factor is None else outlier_factor * norms.median().item()
    total_D, count = torch.zeros(1), 0
    for index in range(batches):
        batch = _read(folder, index, "cpu")
        x_ND = batch.x[batch.patch]
        x_ND = x_ND[x_ND.norm(dim=-1) <= limit]
        total_D, count = total_D + x_ND.double().sum(0), count + len(x_ND)
    mean_D = (total_D / count).float().to(device)
    return Baseline(folder, n, batches, device, limit, int((norms > limit).sum()), len(norms), mean_D)
