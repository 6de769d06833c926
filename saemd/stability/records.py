"""One record per pair of seeds: the rows of `stability.json`."""

import hashlib
from typing import Any

import numpy as np

from saemd.runs import SEED_KEYS, Run
from saemd.runs.folders import part
from saemd.stability.comparison import Comparison, mean
from saemd.stability.measures import by_ablation, by_rate
from saemd.stability.siblings import NAMED, Pair

Record = dict[str, Any]
NAME_BYTES = 180  # of a pair's name: with what is put before and behind it, it names a file


def make_record(pair: Pair, comparison: Comparison, floor: float, threshold: float) -> Record:
    """A pair's figures; those of `_figures` for all latents and, suffix `_alive`, for those alive in both.

    `by_rate` has them by firing rate, `by_ablation` by what a latent does: see `saemd.stability.measures`.
    """
    a, b = pair.a, pair.b
    alive = comparison.alive_in_both(a.alive, b.alive)
    everywhere = np.ones_like(alive)
    are_measured = not any(np.isnan(run.fire_rate).any() for run in (a, b))
    record: Record = {
        **pair_keys(pair),
        "d_sae": a.d_sae,
        "d_in": a.d_in,
        "encoder": [a.encoder, b.encoder],
        "same_start_dec": pair.same_start("W_dec"),
        "same_start_enc": pair.same_start("W_enc"),
        "same_documents": pair.same_documents,
        "alive": int(alive.sum()) if are_measured else None,
        "alive_each": [int(a.alive.sum()), int(b.alive.sum())] if are_measured else None,
        "shared_threshold": threshold,
        "achieved_l0": [a.metrics["l0"], b.metrics["l0"]],
        "fvu": [a.metrics["fvu"], b.metrics["fvu"]],
        "tokens": a.metrics.get("tokens"),
    }
    record |= _figures(pair, comparison, floor, threshold, everywhere)
    of_alive = _figures(pair, comparison, floor, threshold, alive)
    record |= {f"{key}_alive": value if are_measured else None for key, value in of_alive.items()}
    if a.d_sae != b.d_sae:
        record["d_sae_each"] = [a.d_sae, b.d_sae]
    record |= by_ablation(a, b, comparison, threshold)
    return {**record, "by_rate": by_rate(a, b, comparison, threshold)}


def pair_keys(pair: Pair) -> Record:
    """The keys of a record that say which two runs it compares.

    `folder` has the further parts of their folders (of a run without such a part its own value), and `across` the key
    in which they differ where it is no seed; both are left out where there are none. Where the runs differ, `init` has
    both labels and `l0` is the first's. Of SAEs that were named on the command line, `init` has the names, and what
    is known of runs alone is None.
    """
    a, b = pair.a, pair.b
    if pair.across == NAMED:
        addresses = [run.config[NAMED] for run in (a, b)]
        return {"init": f"{a.init},{b.init}", "l0": None, "seeds": [None, None], "across": {NAMED: addresses}}
    init = a.init if a.init == b.init else f"{a.init},{b.init}"
    record: Record = {"init": init, "l0": _number(a.l0), "seeds": [a.seed, b.seed]}
    if keys := sorted(a.parts | b.parts):
        values = {key: (_part(a, key), _part(b, key)) for key in keys}
        record["folder"] = {key: one if one == two else [one, two] for key, (one, two) in values.items()}
    if pair.across:
        record["across"] = {pair.across: [run.value(pair.across) for run in (a, b)]}
    return record


def record_name(record: Record) -> str:
    """The name that a pair's files share, another for every pair below a run root."""
    if is_named(record):
        return record["init"].replace(",", "-")
    l0s = record.get("across", {}).get("l0", [record["l0"]])
    parts = [f"init={record['init']}", f"l0={','.join(f'{l0:g}' for l0 in l0s)}"]
    parts += [f"{key}={_text(value)}" for key, value in record.get("folder", {}).items()]
    return _short("_".join([*parts, f"seeds={'-'.join(str(seed) for seed in record['seeds'])}"]))


def cell_name(record: Record) -> str:
    """The name that a cell's files share, another for every start and L0 below a run root."""
    return _short(f"{label(record)}_l0={record['l0']:g}".replace(" ", "_").replace("/", "-"))


def _short(name: str) -> str:
    if len(name.encode()) <= NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{name.encode()[: NAME_BYTES - 13].decode(errors='ignore')}-{digest}"


def label(record: Record) -> str:
    """What a row or a curve is called, as `mirror`, `mirror layer=6`, or `mirror recipe.lr=0.001,0.003`."""
    parts = {**record.get("across", {}), **record.get("folder", {})}
    named = [f"{key}={_text(value)}" for key, value in parts.items() if key not in ("init", NAMED, *SEED_KEYS)]
    return " ".join([record["init"], *named])


def is_named(record: Record) -> bool:
    """Does it compare SAEs that were named on the command line?"""
    return NAMED in record.get("across", {})


def seeds(record: Record, joined_by: str) -> str:
    """The seeds as people read them, with the halves of a seed that a sweep varies: `24-42`, `24-24 init_seed=1,2`."""
    if is_named(record):
        return "–"
    parts = {**record.get("across", {}), **record.get("folder", {})}
    halves = [f"{key}={_text(parts[key])}" for key in SEED_KEYS if key in parts]
    return " ".join([joined_by.join(str(seed) for seed in record["seeds"]), *halves])


def unit_names(record: Record, *, per_run: bool = False) -> tuple[str, str]:
    """What each side of a pair is drawn from: its seed, with the halves of a seed that a sweep varies.

    Across a key both sides may have one seed; `per_run` tells them apart.
    """
    names = [str(seed) for seed in record["seeds"]]
    across = record.get("across", {})
    for key, values in {**record.get("folder", {}), **across}.items():
        if key in SEED_KEYS or (per_run and key in across):
            sides = values if isinstance(values, list) else [values, values]
            names = [f"{name} {key}={value}" for name, value in zip(names, sides, strict=True)]
    return names[0], names[1]


def _part(run: Run, key: str) -> str | None:
    value = run.value(key)
    return run.parts.get(key) or (None if value is None else part(key, value))


def _text(value: Any) -> str:
    return ",".join("none" if one is None else str(one) for one in (value if isinstance(value, list) else [value]))


def _number(l0: float) -> int | float:
    return int(l0) if l0 == int(l0) else l0


def _figures(pair: Pair, comparison: Comparison, floor: float, threshold: float, keep: np.ndarray) -> Record:
    """`Comparison.summary`, the drift from the start and the random floor over the latents `keep` (bool [F]) of a.

    `drift_*`: mean cos(w_t, w_0), over `keep` in a and over its partners in b. `apart_*`, only where the seeds share
    that start: mean of the products cos_a(i)·cos_b(i), which is the cosine that both runs' latents would have had they
    left the shared start as far as they did but in unrelated directions; similarity beyond it is agreement that
    training added. `random_floor` is the same for both sets: the matching is always that of all latents.
    """
    a, b = pair.a, pair.b
    return {
        **comparison.summary(threshold, keep),
        "drift_dec": _drift(a, b, "cos_dec_start", keep, comparison.dec.index[keep]),
        "drift_enc": _drift(a, b, "cos_enc_start", keep, comparison.enc.index[keep]),
        "apart_dec": mean((a.cos_dec_start * b.cos_dec_start)[keep]) if pair.same_start("W_dec") else None,
        "apart_enc": mean((a.cos_enc_start * b.cos_enc_start)[keep]) if pair.same_start("W_enc") else None,
        "random_floor": floor,
    }


def _drift(a: Run, b: Run, name: str, of_a: np.ndarray, of_b: np.ndarray) -> float | None:
    found = mean(np.concatenate([getattr(a, name)[of_a], getattr(b, name)[of_b]]))
    return None if found is None or np.isnan(found) else found  # NaN: the start is not known
