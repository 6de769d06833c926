"""Published figures to compare a run on the paper's setting with, and when they may be shown beside it.

Loss Recovered of SAEBench's own JumpReLU SAEs (Gemma-2-2B, layer 12, 16k latents), from a third party's reproduction of
SAEBench, within 0.0041 of the values published with it. These SAEs were trained on another text and budget.
"""

from typing import Any

from saemd.quality.records import Record

MODELS = ("google/gemma-2-2b", "gemma-2-2b")
LAYER = 12
LOSS_RECOVERED: dict[float, float] = {21.4: 0.9646, 42.7: 0.9800, 85.6: 0.9880, 172.6: 0.9933, 353.9: 0.9961}  # by L0
NAME = "published"
MARK = "†"  # beside the title of a score that was measured on packaged texts


def comparable(record: Record) -> bool:
    """Whether this is a Loss Recovered on the model and layer of the published ones."""
    return record["score"] == "core" and _papers(record["data"])


def _papers(data: dict[str, Any]) -> bool:
    return data.get("lm") in MODELS and data.get("layer") == LAYER


def titles(records: list[Record]) -> dict[str, str]:
    """Each score's title, in the records' order, with `MARK` where it was measured on packaged texts."""
    marked = {r["score"] for r in records if r["data"].get("packaged") or r["data"].get("known")}  # known: RAVEL
    return {r["score"]: f"{r['title']} {MARK}" if r["score"] in marked else r["title"] for r in records}


def remarks(records: list[Record]) -> list[str]:
    """Which of these scores cannot be compared with published numbers, and why: shown wherever the scores are."""
    lines = []
    if any(title.endswith(MARK) for title in titles(records).values()):
        lines.append(f"{MARK} measured on packaged texts: not comparable with published numbers")
    done = [record for record in records if record["status"] == "done" and record["score"].startswith("saebench_")]
    others = dict.fromkeys((r["data"]["lm"], r["data"]["layer"]) for r in done if not _papers(r["data"]))
    if others:
        of = ", ".join(f"{lm}, layer {layer}" for lm, layer in others)
        lines.append(f"SAEBench's published numbers are of Gemma-2-2B, layer {LAYER}: not comparable with {of}")
    return lines


def published_rows(records: list[Record]) -> list[list[str]]:
    """Rows for `saemd.quality.table`; none where no record is comparable."""
    for record in records:
        if comparable(record):
            return [
                [record["title"], NAME, "–", f"{l0:.1f}", f"{value:.4f}", "–", "–", "–", ""]
                for l0, value in LOSS_RECOVERED.items()
            ]
    return []
