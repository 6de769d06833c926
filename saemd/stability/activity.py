"""Do matched latents fire alike? The correlation of their activations on held-out tokens, kept in a file per pair."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from saemd.errors import UserError
from saemd.files import DamagedFileError, read_npz, replacing
from saemd.progress import bar
from saemd.runs import Run
from saemd.sae import SAE, load_finite
from saemd.stability.comparison import Comparison, mean
from saemd.stability.pairs import inputs_of, pair_path, stored
from saemd.stability.records import Record
from saemd.stability.siblings import Pair

HeldOut = Callable[[Run], Iterable[Tensor]]  # raw activations [B, D] of a run; raises UserError where there are none
CORRELATED = ("correlation_alive", "correlation_shared", "correlation_tokens")


@torch.no_grad()
def correlations(a: SAE, b: SAE, partners: np.ndarray, batches: Iterable[Tensor]) -> tuple[np.ndarray, int]:
    """Pearson's correlation of latent i of `a` and latent `partners[i]` of `b` (float32 [F]), and the number of tokens.

    `batches` are raw activations [B, D]. NaN where one of the two never changes, as where it never fires.
    """
    index, tokens = torch.from_numpy(partners), 0
    sums = torch.zeros(5, len(index), dtype=torch.float64)  # of z_a, z_b, z_a², z_b², z_a z_b
    for x_BD in batches:
        z_a, z_b = a.encode(x_BD).double(), b.encode(x_BD)[:, index].double()
        tokens += len(x_BD)
        sums += torch.stack([values.sum(0) for values in (z_a, z_b, z_a * z_a, z_b * z_b, z_a * z_b)])
    mean_a, mean_b, square_a, square_b, product = sums / max(tokens, 1)
    variances = (square_a - mean_a**2).clamp(min=0) * (square_b - mean_b**2).clamp(min=0)
    found = torch.where(variances > 0, (product - mean_a * mean_b) / variances.sqrt(), torch.nan)
    return found.float().numpy(), tokens


def correlate_pairs(folder: Path, pairs: list[Pair], held_out: HeldOut) -> list[str]:
    """Correlate each matched pair whose file is missing or stale; a line for each that has no activations here."""
    todo = [pair for pair in pairs if inputs_of(folder, pair) and _stored(folder, pair) is None]
    missing: list[str] = []
    if not todo:
        return missing
    with bar("activations", total=len(todo), unit="pairs") as progress:
        for pair in todo:
            if (comparison := stored(folder, pair)) is not None:
                try:
                    batches = held_out(pair.a)
                    saes = load_finite(pair.a.path), load_finite(pair.b.path)
                    found, tokens = correlations(*saes, comparison.dec.index, batches)
                except UserError as error:
                    missing.append(str(error))
                else:
                    inputs = np.array(inputs_of(folder, pair))
                    with replacing(pair_path(folder, pair, "activity")) as aside:
                        np.savez_compressed(aside, correlation=found, tokens=np.array(tokens), inputs=inputs)
            progress.advance()
    return list(dict.fromkeys(missing))


def correlated(folder: Path, pair: Pair, comparison: Comparison, threshold: float) -> Record:
    """`CORRELATED`: the mean over latents alive in both, over those that are shared, and the tokens; None without any.

    The partner is that by decoder. Latents without a correlation are left out.
    """
    if (found := _stored(folder, pair)) is None:
        return dict.fromkeys(CORRELATED)
    correlation, tokens = found
    known = ~np.isnan(correlation)
    alive = pair.a.alive & pair.b.alive[comparison.dec.index]
    values = mean(correlation[known & alive]), mean(correlation[known & comparison.shared(threshold)]), tokens
    return dict(zip(CORRELATED, values, strict=True))


def _stored(folder: Path, pair: Pair) -> tuple[np.ndarray, int] | None:
    path = pair_path(folder, pair, "activity")
    if not path.is_file():
        return None
    try:
        names = ("inputs", "correlation", "tokens")
        inputs, correlation, tokens = read_npz(path, names, "saemd stability activations=… computes it again")
    except DamagedFileError as error:
        print(error)
        return None
    fits = str(inputs) == inputs_of(folder, pair) and correlation.shape == (pair.a.d_sae,)
    return (correlation, int(tokens)) if fits else None
