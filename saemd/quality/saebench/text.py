"""The key `text`: the plain text that two of the evaluations read. Imported in both environments."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saemd.errors import bad_value
from saemd.quality.saebench.evaluation import Bench
from saemd.quality.saebench.settings import SAEBenchSettings

HELDOUT = "heldout"  # value of `text`: the held-out documents of the runs
HELDOUT_CHARACTERS = 40_000_000


@dataclass
class TextSettings(SAEBenchSettings):
    """Settings of an evaluation that reads plain text."""

    OURS = (*SAEBenchSettings.OURS, "text")

    text: str = ""  # hub id, a folder with train.jsonl, or heldout

    def folders(self) -> dict[str, str]:
        return super().folders() | ({} if self.text == HELDOUT else {"text": self.text})

    def kept_by(self) -> list[Any]:
        return [self.text, None]


def text_input(bench: Bench, settings: TextSettings, work: Path) -> dict[str, str]:
    """`text` as SAEBench hands it to `load_dataset`: a hub id, or a folder with train.jsonl (`{"text": …}` a line)."""
    if settings.text == HELDOUT:
        return {"text": str(_write_heldout(bench, work / HELDOUT))}
    local = Path(settings.text).expanduser()
    if local.is_dir():
        if not any(local.glob("*train*")):
            raise bad_value("text", settings.text, "this folder has no train.jsonl, train.parquet or the like")
        return {"text": str(local.absolute())}
    if settings.text.startswith((".", "/", "~")):
        raise bad_value("text", settings.text, "no such folder; name a hub id, a folder with train.jsonl, or heldout")
    return {"text": settings.text}


def _write_heldout(bench: Bench, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    characters = 0
    with open(folder / "train.jsonl", "w") as file:
        for text in bench.texts():
            file.write(json.dumps({"text": text}) + "\n")
            characters += len(text)
            if characters > HELDOUT_CHARACTERS:
                break
    return folder.absolute()
