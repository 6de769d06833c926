"""SAEs that the command line names: any form, any two shapes of one width, with the records and the page of seeds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from saemd.errors import UserError
from saemd.sae import save_sae
from saemd.stability import __main__ as stability
from saemd.stability import match
from saemd.stability.matching import hungarian
from saemd.stability.matching.hungarian import random_floor
from saemd.stability.records import record_name
from tests.sae.test_jumprelu import random_sae
from tests.stability_fakes import D, F, fake_run, rows

pytestmark = pytest.mark.usefixtures("blank_figures")


def gemma(folder: Path, W_dec: Tensor, W_enc: Tensor | None = None) -> Path:
    """An SAE in Gemma Scope's form; the encoder is the decoder by default."""
    folder.mkdir(parents=True)
    n, d = W_dec.shape
    arrays: dict[str, Any] = {"W_enc": (W_dec.T if W_enc is None else W_enc).numpy(), "W_dec": W_dec.numpy()}
    np.savez(folder / "params.npz", **arrays, b_enc=np.zeros(n), b_dec=np.zeros(d), threshold=np.full(n, 0.5))
    return folder


def sparsify(folder: Path, W_dec: Tensor) -> Path:
    """The same SAE as sparsify stores it: the encoder by latents, rows of another norm."""
    folder.mkdir(parents=True)
    n, d = W_dec.shape
    weights = {"encoder.weight": 3 * W_dec, "encoder.bias": torch.zeros(n), "W_dec": 7 * W_dec, "b_dec": torch.zeros(d)}
    save_file(weights, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"k": 4, "d_in": d, "num_latents": n}))
    return folder


def records(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / "stability.json").read_text())


def test_forms_do_not_matter_and_a_permutation_comes_back(tmp_path, capsys):
    shuffle = torch.randperm(F, generator=torch.Generator().manual_seed(1))
    words = [f"a={gemma(tmp_path / 'a', rows(0))}", f"b={sparsify(tmp_path / 'b', rows(0)[shuffle])}"]
    words += [f"c={fake_run(tmp_path / 'runs', seed=24)}", f"out={tmp_path / 'out'}"]
    assert stability.main(words) == 0
    found = {record["init"]: record for record in records(tmp_path / "out")}
    assert list(found) == ["a,b", "a,c", "b,c"]
    same = found["a,b"]
    assert same["shared"] == same["same_match"] == 1
    assert same["mean_cos_dec"] == pytest.approx(1, abs=1e-6)
    unknown = (
        "l0",
        "alive",
        "alive_each",
        "drift_dec",
        "same_start_dec",
        "same_documents",
        "shared_alive",
        "apart_dec",
    )
    assert [same[key] for key in unknown] == [None] * 8
    assert same["by_rate"] == []
    with np.load(tmp_path / "out" / "pairs" / "a-b.npz") as file:
        assert np.array_equal(file["match_dec"], np.argsort(shuffle.numpy()))
    assert found["a,c"]["fvu"][0] is None
    assert found["a,c"]["fvu"][1] == pytest.approx(0.206, abs=1e-3)
    out = capsys.readouterr().out
    assert f"b        {tmp_path / 'b'}\n" in out
    assert re.search(r"a,b +– +– +1\.00 +– +1\.00 +–", out)
    page = (tmp_path / "out" / "report.html").read_text()
    assert str(tmp_path / "b") in page
    assert "Over L0" not in page
    assert {path.name for path in (tmp_path / "out" / "figures").iterdir()} == {
        "figure2_a-b.png", "figure2_a-c.png", "figure2_b-c.png"
    }  # fmt: skip
    assert not (tmp_path / "stability").exists()


def test_the_smaller_is_matched_into_the_larger(tmp_path):
    small, large = rows(1)[:30], torch.cat([rows(2), rows(1)])
    words = [f"a={gemma(tmp_path / 'a', large)}", f"b={gemma(tmp_path / 'b', small)}", f"out={tmp_path / 'out'}"]
    assert stability.main(words) == 0
    (record,) = records(tmp_path / "out")
    assert (record["init"], record["d_sae"], record["d_sae_each"]) == ("b,a", 30, [30, 2 * F])
    assert record["shared"] == 1
    assert record["random_floor"] == pytest.approx(random_floor(30, D, n_others=2 * F))
    assert stability.main(words) == 0  # from the files
    assert records(tmp_path / "out") == [record]


def test_unequal_sizes_have_scipys_optimum(monkeypatch):
    a_FD, b_FD = rows(0, 40, 8), rows(1, 70, 8)
    found, cosine_FF = match(a_FD, b_FD), (a_FD @ b_FD.T).numpy()
    row_F, column_F = linear_sum_assignment(-cosine_FF)
    assert found.cosine.sum() == pytest.approx(cosine_FF[row_F, column_F].sum(), abs=1e-4)
    np.testing.assert_allclose(found.cosine, cosine_FF[np.arange(40), found.index], atol=1e-6)
    with pytest.raises(ValueError, match="one shape"):
        match(b_FD, a_FD)
    monkeypatch.setattr(hungarian.os, "sysconf", lambda _: 100)
    with pytest.raises(UserError, match=r"d_sae=40 and 70: matching them takes .* GB of memory"):
        match(a_FD, b_FD)


def test_a_start_gives_drift_and_what_was_learned(tmp_path):
    start = rows(9)
    a, b = (torch.nn.functional.normalize(start + 0.5 * rows(seed), dim=1) for seed in (1, 2))
    words = [f"a={gemma(tmp_path / 'a', a)}", f"b={gemma(tmp_path / 'b', b)}", f"out={tmp_path / 'out'}"]
    assert stability.main(words) == 0
    assert records(tmp_path / "out")[0]["learned_dec"] is None
    gemma(tmp_path / "start", start)
    assert stability.main([*words, f"start={tmp_path / 'start'}"]) == 0
    (record,) = records(tmp_path / "out")
    drift = torch.cat([(a * start).sum(1), (b * start).sum(1)]).mean()
    assert record["drift_dec"] == pytest.approx(float(drift), abs=1e-5)
    assert record["same_start_dec"] is record["same_start_enc"] is True
    assert record["untrained_shared"] == 1
    assert record["apart_dec"] == pytest.approx(float(((a * start).sum(1) * (b * start).sum(1)).mean()), abs=1e-5)
    index = match(a, b).index
    learned = torch.nn.functional.cosine_similarity(a - start, b[index] - start[index]).mean()
    assert record["learned_dec"] == pytest.approx(float(learned), abs=1e-5)


def test_held_out_activations_measure_saes_from_elsewhere(tmp_path, monkeypatch):
    x = 2 * torch.randn(500, D, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(stability, "held_out", lambda tokens: lambda run: [x[:tokens]])
    run = fake_run(tmp_path / "runs")
    save_sae(random_sae(D, F, threshold=0.3), run)
    words = [f"a={run}", f"b={gemma(tmp_path / 'b', rows(3))}", f"out={tmp_path / 'out'}"]
    assert stability.main([*words, "activations=500"]) == 0
    (record,) = records(tmp_path / "out")
    z = x @ rows(3).T
    z = z * (z > 0.5)
    error = (z @ rows(3) - x).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
    assert record["achieved_l0"][1] == pytest.approx(float((z > 0).sum(1).float().mean()), rel=1e-5)
    assert record["fvu"][1] == pytest.approx(float(error), rel=1e-4)
    assert record["alive"] is not None
    assert record["correlation_tokens"] == 500
    assert sum(row["latents"] for row in record["by_rate"]) == 2 * F


def test_names_of_records_are_letters():
    record = {"init": "a,b", "l0": None, "seeds": [None, None], "across": {"SAEs": ["x", "hf://y/z"]}}
    assert record_name(record) == "a-b"


BAD = {
    "one": (["a={a}"], r"a=…: name two SAEs or more"),
    "root": (["a={a}", "b={b}", "run_root=runs"], r"run_root=runs: SAEs are named, as a=…; leave it out"),
    "out": (["out=x"], r"out=x: no SAEs are named"),
    "nothing": (["a={a}", "b={root}/none"], r"b=.*none: .*there is no such folder"),
    "unknown": (["a={a}", "b={root}"], r"b=.*known are sae_weights.safetensors \(SAELens\).*found a, b, narrow"),
    "width": (["a={a}", "b={narrow}"], r"b=.*narrow: d_in is 4, and 16 of a; compare SAEs of one width"),
    "start": (["a={a}", "b={b}", "start={narrow}"], r"start=.*narrow: it has 48 latents of width 4, a 48 of 16"),
    "no start": (["a={a}", "b={b}", "start={root}/none"], r"start=.*none: .*no such folder"),
    "cache": (["a={a}", "b={b}", "activations=100"], r"activations=100: none of the SAEs is a run"),
    "twice": (["a={a}", "a={b}"], r"a=.*: given twice"),
    "nan": (["a={a}", "b={nan}"], r"b=.*nan: W_enc is NaN or infinite in places; name another SAE"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_takes_one_line(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    broken = rows(1)
    broken[0, 0] = torch.nan
    places = {"a": gemma(tmp_path / "a", rows(0)), "b": gemma(tmp_path / "b", rows(1)), "root": tmp_path}
    places |= {"narrow": gemma(tmp_path / "narrow", rows(0, F, 4)), "nan": gemma(tmp_path / "zz" / "nan", broken)}
    arguments, pattern = BAD[case]
    assert stability.main([argument.format(**places) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f"error: {pattern}", line), line
    assert not (tmp_path / "comparison").exists()
