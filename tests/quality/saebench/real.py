"""SAEBench itself on the tiny world: a run's SAE and one as Gemma Scope's, and small settings of each evaluation."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from saemd.quality.bench import Bench
from saemd.quality.saebench import environment
from saemd.quality.saebench.evaluations.absorption import AbsorptionSettings
from saemd.quality.saebench.evaluations.core import CoreSettings
from saemd.quality.saebench.evaluations.ravel import RavelSettings
from saemd.quality.saebench.evaluations.sae_probes import SaeProbesSettings
from saemd.quality.saebench.evaluations.scr_and_tpp import ScrSettings, TppSettings
from saemd.quality.saebench.evaluations.sparse_probing import ProbingSettings
from saemd.quality.saebench.evaluations.unlearning import UnlearningSettings
from saemd.quality.saebench.settings import SAEBenchSettings
from saemd.quality.score import Outcome, Subject
from saemd.quality.scores import SAEBENCH_SCORES

NEEDS_SAEBENCH = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (environment.environment() / "bin" / "python").is_file(), reason="no .venv-saebench: run `make saebench`"
    ),
]


@dataclass(frozen=True)
class World:
    root: Path
    data: Path
    bench: Bench
    run: Subject
    scope: Subject  # as Gemma Scope's


def measure(world: World, score: str, chosen: SAEBenchSettings, *subjects: Subject) -> list[Outcome]:
    wanted = list(subjects) or [world.run, world.scope]
    found = dict(SAEBENCH_SCORES[f"saebench_{score}"].measure(world.bench, chosen, wanted))
    return [found[subject] for subject in wanted]


def other_python(code: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
    surroundings = {**os.environ, "PYTHONPATH": str(environment.REPOSITORY)}
    command = [environment.python(), "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=surroundings, capture_output=True, text=True)


BIOS = "LabHC/bias_in_bios_class_set1"
SMALL: dict[str, Any] = {"llm_dtype": "float32", "llm_batch_size": 8}
SHIFT: dict[str, Any] = {
    "dataset_names": [BIOS], "train_set_size": 64, "test_set_size": 32, "context_length": 24, "n_values": [2, 20],
}  # fmt: skip
CHOSEN: dict[str, SAEBenchSettings] = {
    "core": CoreSettings(
        **SMALL, text="heldout", batch_size_prompts=4, n_eval_reconstruction_batches=4,
        n_eval_sparsity_variance_batches=4, context_size=64,
    ),
    "probing": ProbingSettings(
        **SMALL, dataset_names=[BIOS, "fancyzhx/ag_news"], probe_train_set_size=64, probe_test_set_size=32,
        context_length=24,
    ),
    "sae_probes": SaeProbesSettings(dataset_names=["119_us_state_TX"]),
    "absorption": AbsorptionSettings(**SMALL),
    "ravel": RavelSettings(
        **SMALL, entity_attribute_selection={"city": ["Country", "Language", "Continent"]}, top_n_entities=24,
        num_pairs_per_attribute=40, learning_rate=1.0, num_epochs=4,
    ),
    "unlearning": UnlearningSettings(
        **SMALL, dataset_names=["wmdp-bio", "human_aging", "high_school_geography"], dataset_size=8, seq_len=64,
        multipliers=[100, 1000], n_features_list=[5, 20], retain_thresholds=[0.01, 0.2],
    ),
    "scr": ScrSettings(**SMALL, **SHIFT, column1_vals_lookup={BIOS: [["professor", "nurse"]]}),
    "tpp": TppSettings(**SMALL, **SHIFT),
}  # fmt: skip
