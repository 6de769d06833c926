"""The report: one file that needs no network, says what it must, and figures that are figures."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from saemd.report.page import _opening
from saemd.stability.__main__ import main
from saemd.stability.root import compare_again
from tests.stability_fakes import fake_run, fake_sweep, rows


class Page(HTMLParser):
    """Collects what a page loads and what it says."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in ("img", "meta", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def run_root(tmp_path):
    for seed in (24, 42):
        fake_run(tmp_path, "uniform", 40, seed, config={"note": "<b>&amp;"})
    return tmp_path


def report(run_root) -> tuple[str, Page]:
    text = (run_root / "stability" / "report.html").read_text()
    return text, Page(text)


def test_it_is_one_file_without_network(run_root):
    assert main([f"run_root={run_root}"]) == 0
    text, page = report(run_root)
    assert page.links
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not re.search(r"<script|<link|<iframe|@import|url\(|https?://", text)
    assert 'name="viewport"' in text
    assert page.open == []
    assert "<b>&amp;" in page.text  # a value out of the configuration, escaped
    assert page.text.count("9,000") == 2  # tokens per second of both runs
    for word in ("PW-MCC", "drift", "floor", "FVU", "tokens/s", "cache.scale", "lm.name", "torch", "git commit"):
        assert word in page.text


def test_shared_starts_are_warned_about_and_others_are_not(run_root):
    assert main([f"run_root={run_root}"]) == 0
    assert "share their starting weights" not in report(run_root)[1].text
    for seed in (24, 42):
        fake_run(run_root, "mirror", 40, seed, start=rows(5))
    assert main([f"run_root={run_root}"]) == 0
    _, page = report(run_root)
    assert "Some seeds share their starting weights" in page.text
    assert "mirror, same decoder and encoder" in page.text
    assert "uniform, same" not in page.text


def test_a_lone_run_still_gets_its_quality(tmp_path):
    fake_run(tmp_path, "uniform", 40, 24)
    assert main([f"run_root={tmp_path}"]) == 0
    _, page = report(tmp_path)
    assert "Nothing to compare yet" in page.text
    assert "Quality of each run" in page.text


def test_figures_show_both_colours(run_root):
    assert main([f"run_root={run_root}"]) == 0
    for path in (run_root / "stability" / "figures").iterdir():
        with Image.open(path) as image:
            image.load()
            assert min(image.size) > 400, path
    with Image.open(run_root / "stability" / "figures" / "figure2_init=uniform_l0=40_seeds=24-42.png") as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24) or []}
    assert {(0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00)} <= colours


def test_importing_the_rooms_loads_no_matplotlib():
    code = "import sys, saemd.stability, saemd.report.page; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_many_seeds_and_cells_stay_one_readable_page(tmp_path):
    """Pairs are folded away; a dozen figures at most."""
    fake_sweep(tmp_path, targets=(20, 40), seeds=(1, 2, 3, 4), snapshots=(0, 250_000))
    assert main([f"run_root={tmp_path}"]) == 0
    text, page = report(tmp_path)
    assert page.open == []
    assert page.links
    assert text.count("<figure") <= 12
    main_table = text.split("<h2>Similarity, beside drift and chance</h2>")[1].split("</table>")[0]
    assert main_table.count("<tr") == 1 + 4
    assert re.search(r"<td>4<span>6</span></td><td>[\d.]+%<span>[\d.]+–[\d.]+</span></td>", main_table)
    assert text.index("Agreement over training") < text.index("Similarity, beside drift")
    for words in ("In how many seeds a latent returns", "By firing rate", "What training added", "Each pair of seeds"):
        assert words in page.text
    assert "By what a latent does" in page.text


def test_figures_of_snapshots_and_seeds_are_drawn_from_their_numbers(tmp_path):
    from saemd.report.binned import ablation_figure, bin_name, bins_of
    from saemd.report.course import course_figure, short
    from saemd.report.figures import course_records
    from saemd.report.recurrence import parts, recurrence_figure
    from saemd.stability.root import compare_all

    fake_sweep(tmp_path, targets=(20, 40), seeds=(1, 2, 3), snapshots=(0, 250_000))
    outcome = compare_all(tmp_path, 0.7)
    along = course_records(outcome.snapshots, outcome.records)
    figure = course_figure(along)
    shared = figure.axes[0].lines[0]
    ends = [r["shared"] for r in along if (r["init"], r["l0"]) == ("mirror", 20) and r["tokens"] == 1_000_000]
    assert np.asarray(shared.get_xdata()).tolist() == [250_000, 1_000_000]
    assert np.asarray(shared.get_ydata())[1] == pytest.approx(sum(ends) / 3)
    assert len(figure.axes) == 4
    assert course_records([], outcome.records) == []
    assert [short(n) for n in (500, 250_000, 1_500_000, 2_000_000_000)] == ["500", "250k", "1.5M", "2B"]
    assert sum(parts(outcome.recurrence[0])) == pytest.approx(1)
    assert len(recurrence_figure(outcome.recurrence).axes[0].patches) == 16
    bins = bins_of([record for record in outcome.records if record["init"] == "mirror"])
    assert sum(latents for latents, _ in bins.values()) == 6 * 2 * 48
    assert [bin_name(bin) for bin in bins] == ["0.01–0.1 %", "0.1–1 %", "1–10 %", "> 10 %"]
    assert [bin_name(bin) for bin in ((0, 0), (0, 1e-4))] == ["dead", "< 0.01 %"]
    line = ablation_figure(outcome.records).axes[0].lines[0]
    rows = [r["by_ablation"][4] for r in outcome.records if (r["init"], r["l0"]) == ("mirror", 20)]
    mean = np.average([row["shared"] for row in rows], weights=[row["latents"] for row in rows])
    assert np.asarray(line.get_ydata())[4] == pytest.approx(mean)


def test_seeds_with_documents_of_their_own_are_said_to_have_them(run_root):
    outcome = compare_again(run_root)
    assert "differ in nothing but the seed, and" in _opening(outcome)[0]
    parts = [{**record, "same_documents": False} for record in outcome.records]
    assert "differ in nothing but the seed and its documents, and" in _opening(replace(outcome, records=parts))[0]
