"""`examples/quickstart.ipynb` runs from its first cell to its last, and is stored with readable outputs.

To renew them, run `jupyter nbconvert --to notebook --execute --inplace examples/quickstart.ipynb` without
`examples/runs/`, and delete the outputs on stderr, which name folders of the machine.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parent.parent / "examples" / "quickstart.ipynb"
CELLS = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
SMALL = ["threads=1", "tokens=131_072", "activations.tokens=30_000", "activations.heldout_tokens=4_000"]


def execute(settings: list[str]) -> dict[str, Any]:
    """The notebook's names after its last cell, with words added to its `settings`."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in CELLS:
        exec("".join(cell["source"]), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            names["settings"] += settings
    return names


def check(names: dict[str, Any], said: str) -> None:
    assert "l0=0: the target L0 must be at least 1\n" in said
    assert len(re.findall(r"^seed (?:24|42): L0 \d+\.\d, FVU \d\.\d{3}, dead \d+\.\d%$", said, re.MULTILINE)) == 2
    assert names["summary"]["same_match"] > 0.9  # mirror: both seeds start from the same weights
    assert names["figure"].size == (735, 975)
    assert names["z"].shape == (len(names["tokens"]), names["sae"].d_sae)
    assert said.count("most of its own: ") == len(names["tokens"]) > 0


def test_on_a_tiny_model(world, tmp_path, capsys):
    names = execute([*world, f"run_root={tmp_path}"])
    check(names, capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_on_smollm2(cache_root, tmp_path, capsys):
    """A sixth of the tokens that the stored outputs are of."""
    names = execute([*SMALL, f"cache_root={cache_root}", f"run_root={tmp_path}"])
    check(names, capsys.readouterr().out)
    assert names["z"].shape[1] == 3072


def test_outputs_are_stored_small_and_without_anyones_folders():
    assert NOTEBOOK.stat().st_size < 300_000
    outputs = [output for cell in CELLS for output in cell["outputs"]]
    assert [cell["execution_count"] for cell in CELLS] == list(range(1, len(CELLS) + 1))
    assert any("image/png" in output.get("data", ()) for output in outputs)
    assert sum("━" in "".join(output.get("data", {}).get("text/plain", "")) for output in outputs) >= 2
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    texts = "".join("".join(output.get("text", output.get("data", {}).get("text/plain", ""))) for output in outputs)
    assert "seed 42: L0" in texts
    assert not re.search(r"(?:^|[\s'\"])/\w+/", texts)
