"""The core measures against direct computation, and at both ends: an exact SAE and one that gives 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from saemd.errors import UserError
from saemd.lm.patch import final_states, logits, patched
from saemd.quality.baseline import make_baseline
from saemd.quality.bench import Bench
from saemd.quality.core import CORE, CoreSettings, losses, resampled
from saemd.quality.score import Outcome, Subject
from tests.quality.world import CONTEXT, LAYER, D, exact_sae, rough_sae, zero_sae

SETTINGS = CoreSettings(tokens=12 * CONTEXT, resamples=50)


def measure(bench: Bench, sae: Any, settings: CoreSettings = SETTINGS) -> Outcome:
    subject = Subject("some", 4, 0, None, D, Path("nowhere"), Path("nowhere"), lambda: sae)
    ((_, outcome),) = CORE.measure(bench, settings, [subject])
    return outcome


def test_an_exact_sae_recovers_all_and_a_zero_one_nothing(bench):
    exact, zero = measure(bench, exact_sae()), measure(bench, zero_sae())
    assert exact.value == pytest.approx(1, abs=1e-4)
    assert exact.values["kl_sae"] == pytest.approx(0, abs=1e-4)
    assert exact.values["fvu"] == pytest.approx(0, abs=1e-6)
    assert exact.values["l0"] == pytest.approx(D)
    assert exact.values["dead_fraction"] == 0
    assert zero.status == "done"
    assert zero.value == pytest.approx(0, abs=1e-6)
    assert zero.values["ce_sae"] == zero.values["ce_zero"]
    assert zero.values["kl_sae"] == zero.values["kl_zero"]
    assert zero.values["dead_fraction"] == 1
    assert zero.values["explained_variance"] == pytest.approx(0, abs=1e-6)  # a constant explains nothing
    assert (zero.values["fvu"] or 0) > 1  # and 0 is worse than the mean


def test_a_mean_sae_recovers_nothing_of_the_mean_ablation(bench):
    sae = zero_sae()
    with torch.no_grad():
        sae.b_dec.copy_(make_baseline(bench, SETTINGS.tokens, SETTINGS.outlier_factor).mean)
    outcome = measure(bench, sae)
    assert outcome.values["loss_recovered_mean"] == pytest.approx(0, abs=1e-5)
    assert outcome.values["fvu"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("factor", [None, 1.2])
def test_figures_are_those_of_a_direct_computation(bench, factor):
    """Whole passes with a hook, one context at a time, all of their tokens' losses in one list."""
    settings, sae = CoreSettings(tokens=12 * CONTEXT, outlier_factor=factor, resamples=50), rough_sae(1)
    found = measure(bench, sae, settings)
    model, special = bench.lm.model, torch.tensor(bench.lm.tokenizer.all_special_ids)
    contexts = [context.input_ids[None] for context in bench.contexts("tokens", 12 * CONTEXT)]
    with torch.inference_mode():
        residuals: list[torch.Tensor] = []
        clean = []
        for ids in contexts:
            with patched(model, LAYER, lambda x: residuals.append(x) or x):
                clean.append(logits(model, final_states(model, ids)).log_softmax(-1))
        plain = [~torch.isin(ids, special) for ids in contexts]
        x = torch.cat([r[p] for r, p in zip(residuals, plain, strict=True)])
        limit = float("inf") if factor is None else factor * x.norm(dim=1).median()
        ordinary = [p & (r.norm(dim=-1) <= limit) for r, p in zip(residuals, plain, strict=True)]
        mean = x[x.norm(dim=1) <= limit].mean(0)

        def run(replacement: Any, where: list[torch.Tensor]) -> tuple[float, float]:
            """Mean CE and mean KL over positions behind which a token follows and whose own token is not special."""
            ce, kl = [], []
            for ids, mask, reference, p in zip(contexts, where, clean, plain, strict=True):
                with patched(model, LAYER, lambda h, m=mask: torch.where(m[..., None], replacement(h), h)):
                    log_p = logits(model, final_states(model, ids)).log_softmax(-1)
                kept = p[:, :-1]
                ce.append(-log_p[:, :-1].gather(2, ids[:, 1:, None])[..., 0][kept])
                kl.append((reference.exp() * (reference - log_p)).sum(-1)[:, :-1][kept])
            return torch.cat(ce).mean().item(), torch.cat(kl).mean().item()

        everywhere = [torch.ones_like(p) for p in plain]
        zero, zero_kl = run(torch.zeros_like, plain)
        direct = {
            "ce_clean": run(lambda h: h, plain)[0],
            "ce_zero": zero,
            "kl_zero": zero_kl,
            "ce_mean": run(lambda h: mean.expand_as(h), plain)[0],
            "ce_zero_everywhere": run(torch.zeros_like, everywhere)[0],
            "ce_zero_ordinary": run(torch.zeros_like, ordinary)[0],
            "ce_sae": run(sae, plain)[0],
            "kl_sae": run(sae, plain)[1],
            "ce_sae_ordinary": run(sae, ordinary)[0],
        }
        kept = torch.cat([r[o] for r, o in zip(residuals, ordinary, strict=True)])
        z = sae.encode(kept)
        direct["fvu"] = ((sae.decode(z) - kept).pow(2).sum() / (kept - kept.mean(0)).pow(2).sum()).item()
        direct["l0"] = (z != 0).sum(1).float().mean().item()
        direct["fvu_with_outliers"] = ((sae(x) - x).pow(2).sum() / (x - x.mean(0)).pow(2).sum()).item()
    direct["loss_recovered"] = (direct["ce_zero"] - direct["ce_sae"]) / (direct["ce_zero"] - direct["ce_clean"])
    for name, value in direct.items():
        assert found.values[name] == pytest.approx(value, rel=2e-4, abs=2e-5), name
    assert found.data["outliers"] == len(x) - len(kept)
    assert (found.data["outliers"] > 0) == (factor is not None)
    assert (found.values["ce_sae_ordinary"] == found.values["ce_sae"]) == (factor is None)
    assert found.value == found.values["loss_recovered"]
    assert found.value is not None
    assert 0 < found.value < 1
    assert found.std
    assert sum(found.details["density_counts"]) == round((1 - (found.values["dead_fraction"] or 0)) * 2 * D)


def test_resampling_repeats_itself_and_spreads_as_contexts_do():
    sums = {"count": torch.full((50,), 10.0).double(), "ce_clean": torch.randn(50).double() + 20}
    drawn = resampled(sums, 4000)
    assert torch.equal(drawn["ce_clean"], resampled(sums, 4000)["ce_clean"])
    assert torch.equal(drawn["count"], torch.full((4000,), 500.0).double())
    means = drawn["ce_clean"] / 50
    assert means.std().item() == pytest.approx(sums["ce_clean"].std(correction=0).item() / 50**0.5, rel=0.05)


def test_losses_are_pooled_over_tokens_not_over_contexts():
    names = ["ce_clean", "ce_sae", "kl_sae", "kl_zero", "ce_sae_ordinary", "ce_zero", "ce_mean", "ce_zero_everywhere"]
    sums = {name: torch.tensor(8.0) for name in [*names, "ce_zero_ordinary"]}
    sums |= {"ce_clean": torch.tensor(4.0), "ce_sae": torch.tensor(5.0), "count": torch.tensor(2.0)}
    assert losses(sums)["loss_recovered"] == 0.75
    assert losses(sums)["ce_clean"] == 2.0


def test_an_interrupted_baseline_goes_on(bench, tmp_path):
    again = Bench.__new__(Bench)
    again.__dict__.update(bench.__dict__)
    again.cache_root = tmp_path
    whole = make_baseline(again, SETTINGS.tokens, 10.0)
    files = sorted(whole.folder.glob("*.safetensors"))
    before = {path: path.read_bytes() for path in files}
    kept = {path: path.stat().st_mtime_ns for path in files[1:-1]}
    files[0].unlink()
    files[-1].unlink()
    make_baseline(again, SETTINGS.tokens, 10.0)
    assert before == {path: path.read_bytes() for path in sorted(whole.folder.iterdir())}
    assert kept == {path: path.stat().st_mtime_ns for path in files[1:-1]}


def test_too_little_text_and_bad_settings_are_one_line(bench):
    for settings, message in (
        (CoreSettings(tokens=10**6), r"core.tokens=1000000: the held-out documents of files give [\d,]+ tokens; use"),
        (CoreSettings(tokens=CONTEXT), f"core.tokens={CONTEXT}: use at least two contexts"),
        (CoreSettings(outlier_factor=0.5), "core.outlier_factor=0.5: "),
        (CoreSettings(resamples=1), "core.resamples=1: "),
    ):
        with pytest.raises(UserError, match=message):
            measure(bench, exact_sae(), settings)


def test_where_ablation_does_not_hurt_there_is_nothing_to_recover(bench, tmp_path):
    """A model whose layers above the SAE write nothing useful: zeroed, it predicts as well."""
    again = Bench.__new__(Bench)
    again.__dict__.update(bench.__dict__)
    again.cache_root = tmp_path
    model: Any = again.lm.model
    head = model.get_output_embeddings().weight
    before = head.detach().clone()
    with torch.no_grad():
        head.neg_()  # now the better a state was, the worse the prediction
    try:
        outcome = measure(again, exact_sae())
    finally:
        with torch.no_grad():
            head.copy_(before)
    assert outcome.status == "not applicable"
    assert outcome.value is None
    assert "zero ablation does not raise" in (outcome.reason or "")
