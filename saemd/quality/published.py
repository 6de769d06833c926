"""Published figures that a run on the paper's setting can be held against, and when they may be shown beside it.

Loss Recovered of SAEBench's own JumpReLU SAEs (Gemma-2-2B, layer 12, 16k latents), by a third party's reproduction of
SAEBench, within 0.0041 of the values published with it. These SAEs were trained on another text and budget.
"""

from __future__ import annotations

from saemd.quality.records import Record

MODELS = ("google/gemma-2-2b", "gemma-2-2b")
LAYER = 12
LOSS_RECOVERED: dict[float, float] = {21.4: 0.9646, 42.7: 0.9800, 85.6: 0.9880, 172.6: 0.9933, 353.9: 0.9961}  # by L0
NAME = "published"


def comparable(record: Record) -> bool:
    """Was this Loss Recovered measured on the model and the layer that the published ones are of?"""
    data = record["data"]
    return record["score"] == "core" and data.get("lm") in MODELS and data.get("layer") == LAYER


def published_rows(records: list[Record]) -> list[list[str]]:
    """Rows for `saemd.quality.table`; none where no record is comparable."""
    for record in records:
        if comparable(record):
            return [
                [record["title"], NAME, "–", f"{l0:.1f}", f"{value:.4f}", "–", "–", "–", ""]
                for l0, value in LOSS_RECOVERED.items()
            ]
    return []
