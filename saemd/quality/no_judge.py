"""Interpretability without a judge: do short readable descriptions, found automatically, predict where latents fire?

It is not SAEBench's AutoInterp, which asks a language model: it uses tokens and words alone. For each sampled latent
the best description of `saemd.quality.descriptions` is chosen on the first half of the held-out contexts, and scored on
the second half by Matthews' correlation. This is 0 for chance at any density of the latent, so that SAEs of different
L0 can be compared, and 1 where the description predicts every firing and no other. README.md has more.
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from saemd.errors import bad_value
from saemd.files import read_tensors, remove_partial, replacing, save_tensors
from saemd.lm.load import load_lm, residual_stream
from saemd.progress import Bar, bar
from saemd.quality.bench import Bench
from saemd.quality.descriptions import Attribute, Description, Fires, agreement, describe, readable_attributes
from saemd.quality.score import Outcome, Score, Subject, not_applicable, one_by_one
from saemd.sae import SAE

SHOWN = 30  # descriptions kept in the record


@dataclass
class NoJudgeSettings:
    """`autointerp_no_judge.…`"""

    tokens: int = 40_960  # of held-out text, whole contexts: half to find descriptions, half to score them
    n_latents: int = 400  # sampled among those that fire often enough; fewer where there are fewer
    fewest_firings: int = 20  # of a latent in each half: fewer are too few to choose and score a description
    most_values: int = 10  # of a description: nobody reads more
    random_seed: int = 42  # of the sample, and of the baseline's shifts

    def check(self, context_length: int) -> None:
        if self.tokens < 4 * context_length:
            remedy = f"use at least four contexts, {4 * context_length} tokens"
            raise bad_value("autointerp_no_judge.tokens", self.tokens, remedy)
        for key in ("n_latents", "fewest_firings", "most_values"):
            if getattr(self, key) < 1:
                raise bad_value(f"autointerp_no_judge.{key}", getattr(self, key), "use at least 1")


@dataclass(frozen=True)
class Text:
    """The held-out positions that count: not special, no outlier, as in training. The second half begins at `half`."""

    x: Tensor  # float32 [N, D]
    attributes: dict[str, Attribute]
    half: int

    @property
    def halves(self) -> tuple[slice, slice]:
        return slice(0, self.half), slice(self.half, len(self.x))


def measure(bench: Bench, settings: NoJudgeSettings, subjects: list[Subject]) -> Iterator[tuple[Subject, Outcome]]:
    """The language model's pass once, then SAE by SAE."""
    settings.check(bench.context_length)
    text = read_text(bench, settings.tokens)
    with bar("descriptions of latents", total=len(subjects) * settings.n_latents, unit="latents") as progress:
        yield from one_by_one(subjects, partial(_measure_one, bench, settings, text, progress))


def read_text(bench: Bench, tokens: int) -> Text:
    """Activations and attributes of the first `tokens` held-out tokens; the activations are kept for other SAEs."""
    contexts = bench.contexts("autointerp_no_judge.tokens", tokens)
    ids_CT = torch.stack([context.input_ids for context in contexts])
    keep_CT = torch.stack([context.keep for context in contexts])
    x_CTD = _activations(bench, ids_CT)
    norms_CT = x_CTD.norm(dim=-1)
    factor = bench.activations.outlier_factor
    if factor is not None:
        keep_CT &= norms_CT <= factor * norms_CT[keep_CT].median()
    special = set(bench.lm.tokenizer.all_special_ids)  # a word ends there
    spelt = {token: "\n" if token in special else bench.lm.tokenizer.decode([token])
             for token in ids_CT.unique().tolist()}  # fmt: skip
    attributes = readable_attributes([[spelt[token] for token in row] for row in ids_CT.tolist()])
    flat = keep_CT.flatten().numpy()
    kept = {name: Attribute(a.codes[flat], a.values) for name, a in attributes.items()}
    return Text(x_CTD[keep_CT], kept, int(keep_CT[: len(keep_CT) // 2].sum()))


def _activations(bench: Bench, ids_CT: Tensor) -> Tensor:
    """float32 [C, T, D], computed once."""
    path = bench.folder("no-judge") / f"{len(ids_CT)}.safetensors"
    if not path.is_file():
        lm = load_lm(bench.lm_config, bench.cache_root, n_layers=bench.layer + 1, device=bench.device)
        at_once = max(1, bench.activations.lm_batch_tokens // bench.context_length)
        parts = []
        with bar("activations of held-out text", total=len(ids_CT), unit="contexts") as progress:
            for part in ids_CT.split(at_once):
                parts.append(residual_stream(lm, bench.layer, part).cpu())
                progress.advance(len(part))
        remove_partial(path.parent)  # one process at a time measures this score
        with replacing(path) as aside:
            save_tensors({"x": torch.cat(parts)}, aside)
    return read_tensors(path)["x"]


@torch.inference_mode()
def _measure_one(bench: Bench, settings: NoJudgeSettings, text: Text, progress: Bar, subject: Subject) -> Outcome:
    progress.note(subject.name)
    started = time.perf_counter()
    sae = subject.load().to(bench.device)
    firings = [torch.stack([fires_NF.sum(0) for fires_NF in _fires(sae, text.x[half], bench.device)]).sum(0).cpu()
               for half in text.halves]  # fmt: skip
    often = torch.minimum(*firings) >= settings.fewest_firings
    eligible = often.nonzero()[:, 0]
    draw = torch.Generator().manual_seed(settings.random_seed)
    sampled = eligible[torch.randperm(len(eligible), generator=draw)[: settings.n_latents]].sort().values
    data = {**bench.data, "tokens": len(text.x), "latents": sae.d_sae, "latents_that_fire_often_enough": len(eligible)}
    if len(sampled) < 2:
        reason = f"{len(sampled)} of {sae.d_sae} latents fire {settings.fewest_firings} times in each half of the text"
        return not_applicable(f"{reason}; two are wanted", data=data, seconds=time.perf_counter() - started)
    columns = sampled.to(bench.device)
    fires_NS = torch.cat([fires_NF[:, columns].cpu() for fires_NF in _fires(sae, text.x, bench.device)]).numpy()
    shifts = torch.randint(len(text.x) // 4, 3 * len(text.x) // 4, (len(sampled),), generator=draw).tolist()
    results: list[tuple[int, Description, dict[str, float]]] = []
    chance: list[dict[str, float]] = []
    for column, (latent, shift) in enumerate(zip(sampled.tolist(), shifts, strict=True)):
        fires = np.ascontiguousarray(fires_NS[:, column])
        results.append((latent, *described(text, fires, settings.most_values)))
        chance.append(described(text, np.roll(fires, shift), settings.most_values)[1])
        progress.advance()
    progress.advance(settings.n_latents - len(sampled))
    scores = [score for _, _, score in results]
    values: dict[str, float | None] = {name: _mean(scores, name) for name in scores[0]}
    values |= {f"{name}_shifted": _mean(chance, name) for name in scores[0]}
    used = Counter(description.attribute for _, description, _ in results)
    values |= {f"share_{name.replace(' ', '_')}": n / len(results) for name, n in sorted(used.items())}
    shown = [results[i] for i in np.linspace(0, len(results) - 1, min(SHOWN, len(results))).astype(int)]
    descriptions = [
        {"latent": latent, "fires_where": str(description), "mcc": score["mcc"], "f1": score["f1"]}
        for latent, description, score in shown
    ]
    return Outcome(
        "done",
        value=values["mcc"],
        values={**values, "eligible_share": len(eligible) / sae.d_sae},
        std=float(np.std([score["mcc"] for score in scores], ddof=1)),
        repetitions=len(scores),
        spread="latents",
        details={"descriptions": descriptions},
        data=data,
        seconds=time.perf_counter() - started,
    )


def described(text: Text, fires: Fires, most: int) -> tuple[Description, dict[str, float]]:
    """The best description on the first half, and its agreement on the second."""
    first, second = text.halves
    description = describe(text.attributes, fires, first, most)
    return description, agreement(description.predicts(text.attributes, second), fires[second])


def _fires(sae: SAE, x_ND: Tensor, device: str) -> Iterator[Tensor]:
    """Whether each latent fires, bool [N, F] on `device`, part by part."""
    return (sae.encode(part_ND.to(device)) > 0 for part_ND in x_ND.split(4096))


def _mean(scores: list[dict[str, float]], name: str) -> float:
    return float(np.mean([score[name] for score in scores]))


NO_JUDGE = Score(
    name="autointerp_no_judge",
    title="Interpretability without a judge",
    needs="the runs' language model and held-out text; no judge",
    settings=NoJudgeSettings,
    measure=measure,
)
