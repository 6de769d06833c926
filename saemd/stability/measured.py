"""The measures that need weights, kept in files: one per pair, and one per pair of starts."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from saemd.files import DamagedFileError, read_json, write_json
from saemd.progress import bar
from saemd.runs import Weights, read_weights
from saemd.stability.comparison import Comparison, compare, mean
from saemd.stability.matching import match
from saemd.stability.measures import learned, subspace
from saemd.stability.pairs import inputs_of, pair_path, read_comparison, stored, write_comparison
from saemd.stability.records import Record
from saemd.stability.siblings import Pair
from saemd.stability.starts import start_of

UNTRAINED = ("mean_cos_enc", "mean_cos_dec", "same_match", "shared", "shared_cosines", "identity_match")
MEASURED = (
    "learned_dec", "learned_enc", "learned_dec_alive", "learned_enc_alive", "subspace_overlap", "subspace_floor",
    "subspace_dimensions", *(f"untrained_{name}" for name in UNTRAINED),
)  # fmt: skip


def measure_pairs(folder: Path, pairs: list[Pair], threshold: float, starts: Path) -> None:
    """Measure each matched pair whose file is missing, or made from other weights or with another threshold.

    The folder `starts` keeps the matchings of the runs' starts, which pairs of other L0 and snapshots share.
    """
    todo = [pair for pair in pairs if inputs_of(folder, pair) and measured(folder, pair, threshold) is None]
    if not todo:
        return
    with bar("measuring", total=len(todo), unit="pairs") as progress:
        for pair in todo:
            if (comparison := stored(folder, pair)) is not None:
                figures = _figures(starts, pair, comparison, threshold)
                content = {"inputs": inputs_of(folder, pair), "shared_threshold": threshold, "figures": figures}
                content |= {"given": _given(pair)} if any(_given(pair)) else {}
                write_json(pair_path(folder, pair, "measures", "json"), content)
            progress.advance()


def measured(folder: Path, pair: Pair, threshold: float) -> Record | None:
    """The figures `MEASURED` of a pair from its file; None where there is none that fits. A damaged one is named."""
    path = pair_path(folder, pair, "measures", "json")
    if not path.is_file():
        return None
    try:
        content = read_json(path, "so this pair is measured again")
    except DamagedFileError as error:
        print(error)
        return None
    if not isinstance(content, dict) or not isinstance(content.get("figures"), dict):
        return None
    made_from = content.get("inputs"), content.get("shared_threshold"), content.get("given", [None, None])
    fits = made_from == (inputs_of(folder, pair), threshold, _given(pair))
    return {name: content["figures"].get(name) for name in MEASURED} if fits else None


def _given(pair: Pair) -> list[Any]:
    """What was given for each SAE beside its weights: see `saemd.stability.named`."""
    return [run.saved.get("given") for run in (pair.a, pair.b)]


def _figures(starts: Path, pair: Pair, comparison: Comparison, threshold: float) -> Record:
    a, b = pair.a, pair.b
    ends = read_weights(a), read_weights(b)
    lost_a = torch.from_numpy(a.alive & ~comparison.shared(threshold))
    lost_b = torch.from_numpy(b.alive & ~comparison.shared_in_b(threshold, b.d_sae))
    figures: Record = dict(subspace(ends[0].W_dec[lost_a], ends[1].W_dec[lost_b]))
    start_a, start_b = start_of(a), start_of(b)
    if start_a and start_b and (a.metrics.get("steps") or all(_given(pair))):
        alive = comparison.alive_in_both(a.alive, b.alive)
        for name, cosines in learned(ends, (start_a, start_b), comparison).items():
            figures |= {name: mean(cosines), f"{name}_alive": mean(cosines[alive])}
    untrained = _untrained(starts, pair, start_a, start_b, threshold)
    return figures | {f"untrained_{name}": value for name, value in untrained.items()}


def _untrained(folder: Path, pair: Pair, a: Weights | None, b: Weights | None, threshold: float) -> dict[str, Any]:
    """`UNTRAINED` of the two starts; empty where they are not known. Seeds that share a start agree before training."""
    if pair.same_start("W_dec") and pair.same_start("W_enc"):
        return dict.fromkeys(UNTRAINED, 1.0)
    if a is None or b is None:
        return {}
    inputs = json.dumps([run.saved.get("start") or str(run.path) for run in (pair.a, pair.b)], sort_keys=True)
    path = folder / f"{hashlib.sha256(inputs.encode()).hexdigest()[:16]}.npz"
    found = read_comparison(path, pair.a.d_sae, pair.b.d_sae)
    comparison = found[0] if found else _compare(a, b)
    if not found:
        write_comparison(path, comparison, inputs)
    summary = comparison.summary(threshold)
    return {key: summary[key] for key in UNTRAINED}


def _compare(a: Weights, b: Weights) -> Comparison:
    """As `compare`; of two tied starts, whose encoder is the decoder, with one matching."""
    if not all(torch.equal(weights.W_enc.T, weights.W_dec) for weights in (a, b)):
        return compare(a, b)
    both = match(a.W_dec, b.W_dec)
    return Comparison(enc=both, dec=both)
