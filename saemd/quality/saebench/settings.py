"""What may be said of each SAEBench evaluation. Names and defaults are SAEBench 0.6.0's, as published for Gemma-2-2B.

Fields in `_OURS` are this project's; all others go to SAEBench as they are, and a test holds their defaults to its own.
Every evaluation reads its data from the hub, or from `data`: a folder that holds copies of the hub's data sets under
their names, as `<data>/LabHC/bias_in_bios`. Probing, SCR and TPP also take `data: packaged`: labelled texts out of
published packages, by the names of `saemd.quality.packaged.SETS`.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saemd.errors import bad_value

_OURS = ("data", "repetitions", "headline", "text", "base_url", "judge", "key_variable", "lm", "max_words")
PACKAGED = "packaged"  # as `data`: labelled texts out of published packages
HELDOUT = "heldout"  # as `text`: the runs' own held-out documents
Listing = list[tuple[str, int, int]]


@dataclass
class SAEBenchSettings:
    """What all evaluations share."""

    data: str = ""  # folder with copies of the hub's data sets, or packaged; empty: the hub
    repetitions: int = 1  # with seeds random_seed, random_seed + 1, …
    random_seed: int = 42
    llm_batch_size: int = 32
    llm_dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        if self.repetitions < 1:
            raise bad_value("repetitions", self.repetitions, "at least 1")
        if not 0 <= self.random_seed <= 2**32 - self.repetitions:  # numpy's seeds have 32 bits
            raise bad_value("random_seed", self.random_seed, f"0 to {2**32 - self.repetitions}")
        if self.llm_dtype not in ("float32", "bfloat16", "float16"):
            raise bad_value("llm_dtype", self.llm_dtype, "float32, bfloat16 or float16")

    def config(self) -> dict[str, Any]:
        """The keys of SAEBench's own configuration."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in _OURS}

    def local_files(self) -> dict[str, Listing]:
        """What lies in the folders of the user's that these settings name; empty where they name none."""
        named = {"data": (self.data, PACKAGED), "text": (getattr(self, "text", ""), HELDOUT)}
        named["lm"] = getattr(self, "lm", ""), ""
        folders = {key: Path(value).expanduser() for key, (value, ours) in named.items() if value not in ("", ours)}
        return {key: listing(folder) for key, folder in folders.items() if folder.is_dir()}

    def _refuse_headline(self, key: str, values: list[int], headline: int) -> None:
        if headline not in values:
            raise bad_value("headline", headline, f"one of {key}={values}")


@dataclass
class CoreSettings(SAEBenchSettings):
    """L0 and Loss Recovered (`core`): 200 batches of 16 prompts for the loss, 2,000 for the sparsity."""

    text: str = "Skylion007/openwebtext"  # hub id, a folder with train.jsonl, or heldout
    batch_size_prompts: int = 16
    n_eval_reconstruction_batches: int = 200
    n_eval_sparsity_variance_batches: int = 2000
    context_size: int = 128
    exclude_special_tokens_from_reconstruction: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.repetitions != 1:
            raise bad_value("repetitions", self.repetitions, "1: core has no draws, every repetition would be the same")

    def config(self) -> dict[str, Any]:
        return {key: value for key, value in super().config().items() if key not in ("random_seed", "llm_batch_size")}


@dataclass
class AutoInterpSettings(SAEBenchSettings):
    """A judge explains latents, then says from the explanation where they fire. Any OpenAI-compatible endpoint."""

    text: str = "monology/pile-uncopyrighted"  # hub id, a folder with train.jsonl, or heldout
    base_url: str = "https://api.openai.com/v1"
    judge: str = "gpt-4o-mini"
    key_variable: str = "OPENAI_API_KEY"  # environment variable with the endpoint's key; empty: it wants none
    n_latents: int = 1000
    dead_latent_threshold: float = 15
    total_tokens: int = 2_000_000
    llm_context_size: int = 128


@dataclass
class ProbingSettings(SAEBenchSettings):
    """Accuracy of linear probes on the k latents that differ most between the classes."""

    headline: int = 1  # the k whose accuracy is the score
    k_values: list[int] = field(default_factory=lambda: [1, 2, 5])
    dataset_names: list[str] = field(
        default_factory=lambda: [
            "LabHC/bias_in_bios_class_set1",
            "LabHC/bias_in_bios_class_set2",
            "LabHC/bias_in_bios_class_set3",
            "canrager/amazon_reviews_mcauley_1and5",
            "canrager/amazon_reviews_mcauley_1and5_sentiment",
            "codeparrot/github-code",
            "fancyzhx/ag_news",
            "Helsinki-NLP/europarl",
        ]
    )
    probe_train_set_size: int = 4000
    probe_test_set_size: int = 1000
    context_length: int = 128
    sae_batch_size: int = 125

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_headline("k_values", self.k_values, self.headline)


@dataclass
class SaeProbesSettings(SAEBenchSettings):
    """The same question on the 113 binary data sets that ship in the sae-probes package: nothing is fetched."""

    headline: int = 1
    ks: list[int] = field(default_factory=lambda: [1, 2, 5])
    dataset_names: list[str] = field(default_factory=list)  # empty: all 113
    llm_dtype: str = "float32"  # as sae-probes; bfloat16 is sooner, and what SAEBench's other evaluations use
    reg_type: str = "l1"
    include_llm_baseline: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_headline("ks", self.ks, self.headline)

    def config(self) -> dict[str, Any]:
        dropped = {"llm_batch_size", "llm_dtype"} | ({"dataset_names"} if not self.dataset_names else set())
        return {name: value for name, value in super().config().items() if name not in dropped}


@dataclass
class AbsorptionSettings(SAEBenchSettings):
    """First-letter features that other latents absorb. Needs the model's vocabulary alone."""

    max_words: int = 0  # of the vocabulary, drawn with random_seed; 0: all
    max_k_value: int = 10
    f1_jump_threshold: float = 0.03
    prompt_template: str = "{word} has the first letter:"
    prompt_token_pos: int = -6
    k_sparse_probe_l1_decay: float = 0.01
    k_sparse_probe_batch_size: int = 4096
    k_sparse_probe_num_epochs: int = 50
    precalc_k_sparse_probe_sae_acts: bool = False  # encode the words once: sooner, for [words, F] in memory
    min_GT_probe_f1: float = 0.6  # noqa: N815 - SAEBench's name
    min_feats_for_eval: int = 20  # letters


@dataclass
class RavelSettings(SAEBenchSettings):
    """Can an attribute of an entity be changed (cause) without the others (isolation)? Resid_post of a layer only.

    With `data: packaged` the default selection stands for all that the model knows: `saemd.quality.knowledge.ravel`.
    """

    llm_batch_size: int = 8  # SAEBench: a quarter of the others'
    # A command line adds to it; {nobel_prize_winner: []} leaves a type out.
    entity_attribute_selection: dict[str, list[str]] = field(
        default_factory=lambda: {
            "city": ["Country", "Continent", "Language"],
            "nobel_prize_winner": ["Country of Birth", "Field", "Gender"],
        }
    )
    top_n_entities: int = 500
    num_pairs_per_attribute: int = 5000
    train_test_split: float = 0.7
    learning_rate: float = 1e-3
    num_epochs: int = 2
    n_generated_tokens: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        chosen = {name: attributes for name, attributes in self.entity_attribute_selection.items() if attributes}
        if not chosen:
            raise bad_value("entity_attribute_selection", {}, "name a type of entity with two attributes or more")
        self.entity_attribute_selection = chosen


@dataclass
class UnlearningSettings(SAEBenchSettings):
    """Hazardous biology forgotten without side effects, by the instruction-tuned sister of the runs' model."""

    lm: str = "google/gemma-2-2b-it"  # hub id or local folder; its last part must be gemma-2-2b-it or gemma-2-9b-it
    llm_batch_size: int = 4  # SAEBench: an eighth of the others', for contexts of 1,024
    dataset_names: list[str] = field(
        default_factory=lambda: [
            "wmdp-bio",
            "high_school_us_history",
            "college_computer_science",
            "high_school_geography",
            "human_aging",
        ]
    )
    retain_thresholds: list[float] = field(default_factory=lambda: [0.001, 0.01])
    n_features_list: list[int] = field(default_factory=lambda: [10, 20])
    multipliers: list[int] = field(default_factory=lambda: [25, 50, 100, 200])
    dataset_size: int = 1024
    seq_len: int = 1024


@dataclass
class ShiftSettings(SAEBenchSettings):
    """SCR and TPP: probes before and after zeroing the N latents with the largest effect on them."""

    headline: int = 20  # the N whose metric is the score
    n_values: list[int] = field(default_factory=lambda: [2, 5, 10, 20, 50, 100, 500])
    dataset_names: list[str] = field(
        default_factory=lambda: ["LabHC/bias_in_bios_class_set1", "canrager/amazon_reviews_mcauley_1and5"]
    )
    train_set_size: int = 4000
    test_set_size: int = 1000
    context_length: int = 128
    probe_train_batch_size: int = 16
    probe_epochs: int = 20
    probe_lr: float = 1e-3
    probe_l1_penalty: float = 1e-3
    sae_batch_size: int = 125

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_headline("n_values", self.n_values, self.headline)


@dataclass
class ScrSettings(ShiftSettings):
    """SCR, with the pairs of classes that are made spuriously correlated."""

    column1_vals_lookup: dict[str, list[list[str]]] = field(
        default_factory=lambda: {
            "LabHC/bias_in_bios_class_set1": [
                ["professor", "nurse"],
                ["architect", "journalist"],
                ["surgeon", "psychologist"],
                ["attorney", "teacher"],
            ],
            "canrager/amazon_reviews_mcauley_1and5": [
                ["Books", "CDs_and_Vinyl"],
                ["Software", "Electronics"],
                ["Pet_Supplies", "Office_Products"],
                ["Industrial_and_Scientific", "Toys_and_Games"],
            ],
        }
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if missing := [name for name in self.dataset_names if not self.column1_vals_lookup.get(name)]:
            raise bad_value("column1_vals_lookup", self.column1_vals_lookup, f"name pairs of classes of {missing[0]}")
        self.column1_vals_lookup = {name: self.column1_vals_lookup[name] for name in self.dataset_names}

    def config(self) -> dict[str, Any]:
        return {**super().config(), "perform_scr": True}


@dataclass
class TppSettings(ShiftSettings):
    """TPP."""

    def config(self) -> dict[str, Any]:
        return {**super().config(), "perform_scr": False}


def listing(folder: Path) -> Listing:
    """Names, sizes and times of the files in it: another state is another data set."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def endpoint_key(key_variable: str) -> str:
    """The endpoint's key. Raises `UserError` where the variable is not set."""
    if not key_variable:
        return "none"
    if not os.environ.get(key_variable):
        raise bad_value("key_variable", key_variable, "not set: export the endpoint's key under this name")
    return os.environ[key_variable]
