"""A repository for the hub: SAEs in SAELens's form, and a model card with their metrics, stability and recurrence."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from saemd.errors import UserError, bad_value
from saemd.files import one_line, read_json, read_npz
from saemd.runs import Run, read_run

FIGURE, AGAIN = "stability.png", "saemd stability run_root=… makes it again"
METRICS = {"l0": "L0", "fvu": "FVU", "explained_variance": "explained variance", "dead_fraction": "dead"}
PAIRS = {"shared": "shared", "same_match": "same partner", "mean_cos_dec": "cos dec", "drift_dec": "drift dec"}
PAIRS |= {"random_floor": "chance"}


def check_repository(repository: str) -> None:
    """Raise `UserError` for no name of a repository, and where nobody is logged in to the hub."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise bad_value("repo", repository, "write <organisation>/<name>, or leave it out to write the folder alone")
    _on_hub(repository, "whoami")


def upload(folder: Path, repository: str) -> None:
    """Upload the whole folder; the repository is made where there is none. Raises `UserError`."""
    _on_hub(repository, "create_repo", repo_id=repository, exist_ok=True)
    _on_hub(repository, "upload_folder", repo_id=repository, folder_path=folder)


def _on_hub(repository: str, method: str, **arguments: Any) -> None:
    try:
        from huggingface_hub import HfApi

        getattr(HfApi(), method)(**arguments)
    except ImportError as error:
        raise bad_value("repo", repository, "pip install huggingface_hub") from error
    except (OSError, ValueError) as error:  # no network, no token, no right to write
        remedy = "log in with `hf auth login`, or leave repo=… out: the folder is written all the same"
        raise bad_value("repo", repository, f"the hub refused ({one_line(error)}); {remedy}") from error


def write_card(folders: Mapping[Path, Path], whole: Path, repository: str | None) -> None:
    """Write `README.md` to `whole`, and beside each SAE `recurrence.json`: in how many seeds each latent returns.

    `folders` has each run's folder and its SAE's below `whole`. The stability is that of the last comparison; without
    one the card has none. Raises `UserError`.
    """
    runs = {place: read_run(run) for run, place in folders.items()}
    first = next(iter(runs.values()))
    lm, layer = first.config.get("lm") or {}, first.config.get("layer")
    name = repository or "<organisation>/<name>"
    for place, run in runs.items():
        if counts := _recurrence(run):
            (whole / place / "recurrence.json").write_text(json.dumps(counts) + "\n")
    base = [f"base_model: {lm['name']}"] if re.fullmatch(r"[\w.-]+/[\w.-]+", str(lm.get("name"))) else []
    lines = ["---", "library_name: saelens", "tags: [sparse-autoencoder, saemd]", *base, *_licence(lm), "---"]
    lines += [f"# Sparse autoencoders for {lm.get('name')}, layer {layer}", ""]
    lines += ["Each takes raw activations and has decoder rows of unit norm.", "", *_metrics(runs), ""]
    place = next(iter(runs)).as_posix()
    lines += ["## Load", "", "```python", "import saemd", f'sae = saemd.load_sae("hf://{name}/{place}")']
    lines += ["z = sae.encode(x)  # raw activations [..., d_in] → latents [..., d_sae]", "```", ""]
    lines += ["Or with SAELens:", "", "```python", "from sae_lens import SAE"]
    lines += [f'sae = SAE.from_pretrained("{name}", "{place}")', "z = sae.encode(x)", "```", ""]
    lines += [*_stability(runs, whole), "## Licence", ""]
    terms = lm.get("licence") or "terms that its own page states"
    lines += [f"The SAEs are derived from activations of {lm.get('name')}, which comes under: {terms}."]
    (whole / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _licence(lm: Mapping[str, Any]) -> list[str]:
    """The language model's licence for the card's header; nothing where it is not known."""
    licence = lm.get("licence")
    if not licence:
        return []
    is_short = re.fullmatch(r"[A-Za-z0-9.-]+", licence)
    return [f"license: {licence.lower()}"] if is_short else ["license: other", f"license_name: {json.dumps(licence)}"]


def _metrics(runs: Mapping[Path, Run]) -> list[str]:
    rows = [
        [f"`{place.as_posix()}`", run.config.get("sae", {}).get("name", "jumprelu"), run.d_sae, f"{run.l0:g}"]
        + [_number(run.metrics.get(key)) for key in METRICS]
        + [f"{run.metrics['tokens']:,}" if "tokens" in run.metrics else "–"]
        for place, run in runs.items()
    ]
    return _table(["folder", "architecture", "d_sae", "target L0", *METRICS.values(), "tokens"], rows)


def _stability(runs: Mapping[Path, Run], whole: Path) -> list[str]:
    """The pairs of the last comparison in which one of these runs is, its figure, and how often latents return."""
    folder = next(iter(runs.values())).run_root / "stability"
    known = {(run.init, run.l0, run.seed) for run in runs.values()}
    records = [
        record
        for record in _stored(folder / "stability.json")
        if any((record["init"], record["l0"], seed) in known for seed in record["seeds"])
    ]
    if not records:
        return []
    head = ["init", "L0", "seeds", "one start", *PAIRS.values()]
    rows = [
        [record["init"], record["l0"], ", ".join(map(str, record["seeds"]))]
        + ["yes" if record["same_start_dec"] or record["same_start_enc"] else "no"]
        + [_number(record.get(key)) for key in PAIRS]
        for record in records
    ]
    lines = ["## Stability over seeds", "", *_table(head, rows), ""]
    lines += ["Shared: encoder and decoder are matched to one partner, both cosines above "]
    lines[-1] += (
        f"{records[0]['shared_threshold']:g}. Drift: cosine with the start. Seeds with one start agree untrained."
    )
    if (figure := folder / "figures" / "summary.png").is_file():
        shutil.copyfile(figure, whole / FIGURE)
        lines += ["", f"![Cosines and shared latents over L0]({FIGURE})"]
    if any((whole / place / "recurrence.json").exists() for place in runs):
        lines += ["", "`recurrence.json` has, latent by latent, in how many of `compared` other seeds it is shared."]
    return [*lines, ""]


def _recurrence(run: Run) -> dict[str, Any] | None:
    """In how many of the other seeds each latent returns, of the last comparison; None where it has not this run."""
    place = run.path.resolve().relative_to(run.run_root).as_posix()
    for path in sorted((run.run_root / "stability" / "recurrence").glob("*.npz")):
        names, returns, compared = read_npz(path, ("runs", "returns", "compared"), AGAIN)
        for i in np.flatnonzero(names == place):
            return {"compared": int(compared[i]), "returns": returns[i].tolist()}
    return None


def _stored(path: Path) -> list[dict[str, Any]]:
    found = read_json(path, AGAIN) if path.is_file() else []
    if not isinstance(found, list):
        raise UserError(f"{path}: is no table of comparisons; {AGAIN}")
    return found


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else "–"


def _table(head: list[str], rows: list[list[Any]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(str(cell) for cell in line)} |" for line in lines]
