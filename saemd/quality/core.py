"""The core measures: what an SAE's reconstruction costs the language model, and how well it reconstructs.

On held-out text, pooled over tokens, with CE the cross-entropy of the next token in nats:

    Loss Recovered = (CE_ablated − CE_sae) / (CE_ablated − CE_clean)

The reconstruction (or 0, or the mean activation) replaces the layer's output at every token that is not special (BOS,
EOS, padding). Special tokens stay clean, and losses at them are not counted. `README.md` beside this file says where
this differs from SAEBench and why. Shape suffixes: B contexts in a batch, T tokens in a context, C contexts.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from saemd.errors import bad_value
from saemd.lm.patch import token_losses, upper_states
from saemd.progress import Bar, bar
from saemd.quality.baseline import ABLATIONS, Baseline, Batch, make_baseline, outliers_clean
from saemd.quality.bench import Bench
from saemd.quality.score import Outcome, Score, Subject, not_applicable, one_by_one
from saemd.sae import SAE
from saemd.sae.measures import Pooled

DENSITY_EDGES = [-5 + 0.25 * step for step in range(21)]  # log10 of the share of tokens on which a latent is active


@dataclass
class CoreSettings:
    """`core.…`"""

    tokens: int = 16_384  # of held-out text, rounded down to full contexts
    outlier_factor: float | None = 10.0  # tokens longer than so many median norms are outliers; null: there are none
    resamples: int = 1000  # of the contexts, with replacement, for the standard deviation

    def check(self, context_length: int) -> None:
        if self.tokens < 2 * context_length:
            raise bad_value("core.tokens", self.tokens, f"use at least two contexts, {2 * context_length} tokens")
        if self.outlier_factor is not None and not self.outlier_factor > 1:
            raise bad_value("core.outlier_factor", self.outlier_factor, "use more than 1, or null")
        if self.resamples < 2:
            raise bad_value("core.resamples", self.resamples, "use at least 2")


def measure(bench: Bench, settings: CoreSettings, subjects: list[Subject]) -> Iterator[tuple[Subject, Outcome]]:
    """The language model's own passes once, then SAE by SAE."""
    settings.check(bench.context_length)
    baseline = make_baseline(bench, settings.tokens, settings.outlier_factor)
    model = bench.lm.model  # loaded here, so that no SAE's seconds include it
    with bar("core measures", total=len(subjects) * baseline.batches, unit="batches") as progress:
        one = partial(_measure_one, bench, model, settings, baseline, progress)
        yield from one_by_one(subjects, one)


@torch.inference_mode()
def _measure_one(
    bench: Bench, model: nn.Module, settings: CoreSettings, baseline: Baseline, progress: Bar, subject: Subject
) -> Outcome:
    progress.note(subject.name)
    started = time.perf_counter()
    sae = subject.load().to(bench.device)
    ordinary, everything = (Pooled(sae.d_in, sae.d_sae) for _ in range(2))
    parts: list[dict[str, Tensor]] = []
    for index, batch in enumerate(baseline):
        ordinary.update(sae, batch.x[baseline.ordinary(batch)] / sae.scale)
        everything.update(sae, batch.x[batch.patch] / sae.scale)
        losses = {
            "ce_clean": batch.ce,
            **baseline.ablated(index),
            **_patched_losses(model, bench.layer, baseline, batch, sae),
        }
        parts.append({name: batch.per_context(loss) for name, loss in losses.items()})
        parts[-1]["count"] = batch.counts.sum(1).double()
        progress.advance()
    sums_C = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return _outcome(bench, settings, baseline, sums_C, ordinary, everything, time.perf_counter() - started)


def _patched_losses(model: nn.Module, layer: int, baseline: Baseline, batch: Batch, sae: SAE) -> dict[str, Tensor]:
    """`ce_sae`, `kl_sae` [B, T-1], and `ce_sae_ordinary`, for which outliers stay clean like special tokens."""
    sae_BTD = sae(batch.x)
    patched_BTD = torch.where(batch.patch[..., None], sae_BTD, batch.x)
    states_BTD = upper_states(model, layer, batch.ids, patched_BTD)
    ce_BT, kl_BT = token_losses(model, batch.ids, states_BTD, batch.states)
    assert kl_BT is not None
    ce_ordinary_BT = outliers_clean(model, layer, baseline, batch, sae_BTD, ce_BT)
    return {"ce_sae": ce_BT, "kl_sae": kl_BT, "ce_sae_ordinary": ce_ordinary_BT}


def losses(sums: dict[str, Tensor]) -> dict[str, Tensor]:
    """The figures from sums over tokens, each of the shape of the sums: [] or [resamples]."""
    means = {name: value / sums["count"] for name, value in sums.items() if name != "count"}
    clean, sae = means["ce_clean"], means["ce_sae"]

    def recovered(ablation: str, patched: Tensor = sae) -> Tensor:
        ablated = means[f"ce_{ablation}"]
        return (ablated - patched) / (ablated - clean)

    return {
        "loss_recovered": recovered("zero"),
        "loss_recovered_mean": recovered("mean"),
        "loss_recovered_zero_everywhere": recovered("zero_everywhere"),
        "loss_recovered_outliers_clean": recovered("zero_ordinary", means["ce_sae_ordinary"]),
        "kl_recovered": 1 - means["kl_sae"] / means["kl_zero"],
        **{name: means[name] for name in ("ce_clean", "ce_sae", "ce_sae_ordinary", "kl_sae", "kl_zero")},
        **{f"ce_{ablation}": means[f"ce_{ablation}"] for ablation in ABLATIONS},
    }


def resampled(sums_C: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    """Sums [n] over contexts drawn with replacement. The draws are the same for every sum; the seed is `n`."""
    contexts = len(sums_C["count"])
    drawn = torch.randint(contexts, (n, contexts), generator=torch.Generator().manual_seed(n))
    counts_RC = torch.zeros(n, contexts, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(n, contexts).double())
    return {name: counts_RC @ values for name, values in sums_C.items()}


def _outcome(
    bench: Bench,
    settings: CoreSettings,
    baseline: Baseline,
    sums_C: dict[str, Tensor],
    ordinary: Pooled,
    everything: Pooled,
    seconds: float,
) -> Outcome:
    figures = {name: value.item() for name, value in losses({k: v.sum() for k, v in sums_C.items()}).items()}
    held_out = ordinary.result()
    figures |= {name: getattr(held_out, name) for name in ("l0", "fvu", "explained_variance", "dead_fraction")}
    figures["fvu_with_outliers"] = everything.result().fvu
    data = {
        **bench.data,
        "contexts": baseline.contexts,
        "tokens": baseline.tokens,
        "counted_losses": int(sums_C["count"].sum()),
        "outliers": baseline.outliers,
    }
    if figures["ce_zero"] <= figures["ce_clean"]:
        reason = (
            f"zero ablation does not raise the cross-entropy here ({figures['ce_clean']:.3f} clean, "
            f"{figures['ce_zero']:.3f} ablated), so there is no loss to recover"
        )
        return not_applicable(reason, values=figures, data=data, seconds=seconds)
    rates = held_out.fire_rate.double()
    counts = torch.histogram(
        rates[rates > 0].log10().clamp(min=DENSITY_EDGES[0]), torch.tensor(DENSITY_EDGES, dtype=torch.float64)
    ).hist
    return Outcome(
        "done",
        value=figures["loss_recovered"],
        values=figures,
        std=losses(resampled(sums_C, settings.resamples))["loss_recovered"].std().item(),
        repetitions=settings.resamples,
        spread=f"{settings.resamples} resamplings of {baseline.contexts} contexts",
        details={"density_log10_edges": DENSITY_EDGES, "density_counts": counts.int().tolist()},
        data=data,
        seconds=seconds,
    )


CORE = Score(
    name="core",
    title="Loss Recovered",
    needs="the runs' language model and held-out text",
    settings=CoreSettings,
    measure=measure,
)
