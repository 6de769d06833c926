"""`saebench_absorption`: do other latents absorb first-letter features? Needs the model's vocabulary alone."""

import functools
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import Tensor

from saemd.quality.saebench.evaluation import Call, Evaluation, NotApplicableError
from saemd.quality.saebench.results import Keys, Result
from saemd.quality.saebench.settings import SAEBenchSettings


@dataclass
class AbsorptionSettings(SAEBenchSettings):
    """`saebench_absorption.…`"""

    OURS = (*SAEBenchSettings.OURS, "max_words")

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

    def kept_by(self) -> list[Any]:
        return [None, self.max_words]


def call(run: Call) -> None:
    """SAEBench keeps probes in site-packages by model name and layer alone; here they are kept in the job's folder."""
    from sae_bench.evals.absorption import common, feature_absorption, main
    from transformer_lens import HookedTransformer

    config, artifacts = run.config, Path("artifacts/absorption").absolute()
    model = first_letters(run.model, run.job["layer"], config["prompt_token_pos"])
    probing = functools.partial(
        main.run_k_sparse_probing_experiment,
        probes_dir=artifacts / "probes", experiment_dir=artifacts / "k_sparse_probing",
    )  # fmt: skip
    absorption = functools.partial(
        main.run_feature_absortion_experiment,
        probes_dir=artifacts / "probes", experiment_dir=artifacts / "feature_absorption",
        sparse_probing_experiment_dir=artifacts / "k_sparse_probing",
    )  # fmt: skip

    def absorption_of_the_same_prompts(**arguments: Any) -> Any:
        random.seed(config["random_seed"])  # prompts are drawn; training probes for the first SAE has used draws
        return absorption(**arguments)

    words = functools.partial(vocabulary, most=run.job["max_words"], seed=config["random_seed"])
    with (
        patch.multiple(HookedTransformer, from_pretrained_no_processing=lambda *_, **__: model),
        patch.multiple(
            main,
            run_k_sparse_probing_experiment=probing,
            run_feature_absortion_experiment=absorption_of_the_same_prompts,
        ),
        patch.multiple(common, get_alpha_tokens=words),
        patch.multiple(feature_absorption, get_alpha_tokens=words),
    ):
        results = run.run_eval(main.run_eval, main.AbsorptionEvalConfig(**config))
    if not results:
        probes = json.loads((artifacts / f"{run.name}_custom_sae_k_sparse_probing.json").read_text())
        readable = sum((probe["f1_probe"] or 0) > config["min_GT_probe_f1"] for probe in probes)
        raise NotApplicableError(
            f"only {readable} of 26 first letters can be read from this layer (F1 above {config['min_GT_probe_f1']}), "
            f"{config['min_feats_for_eval']} are wanted"
        )


class FirstLetters:
    """A HookedTransformer as Absorption uses it, sooner: for one position of one layer.

    It goes no further than the layer, as the logits are dropped, and keeps the activations: every SAE has the same
    prompts. `tests/quality/saebench/test_fast.py` compares it with the HookedTransformer. B texts, D d_in.
    """

    def __init__(self, model: Any, layer: int, position: int) -> None:
        assert position < 0
        self._model, self._layer, self._position = model, layer, position
        self._kept: dict[tuple[str, ...], dict[str, Tensor]] = {}  # prompts → hook → [B, D]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def run_with_cache(self, prompts: list[str], names_filter: list[str]) -> tuple[None, dict[str, Tensor]]:
        """The activations [B, -position, D]. The first one, which Absorption reads, stands at all positions."""
        key = tuple(prompts)
        if key not in self._kept:
            stop = self._layer + 1
            _, cache = self._model.run_with_cache(prompts, names_filter=names_filter, stop_at_layer=stop)
            self._kept[key] = {name: cache[name][:, self._position].clone() for name in names_filter}
        return None, {name: x_BD[:, None].expand(-1, -self._position, -1) for name, x_BD in self._kept[key].items()}


first_letters = functools.lru_cache(maxsize=1)(FirstLetters)  # the same one for all SAEs of a job


def vocabulary(tokenizer: Any, most: int, seed: int) -> list[str]:
    """The vocabulary's words, or `most` of them; sorted, as a tokenizer gives them in another order in each process."""
    from sae_bench.evals.absorption import vocab

    words = sorted(vocab.get_alpha_tokens(tokenizer))
    return random.Random(seed).sample(words, most) if 0 < most < len(words) else words


def letters(result: Result, leaf: str) -> list[float]:
    return [letter["full_absorption_rate"] for letter in result["eval_result_details"]]


ABSORPTION = Evaluation(
    name="absorption",
    score="saebench_absorption",
    title="Absorption (inverted)",
    needs="the model's vocabulary alone",
    settings=AbsorptionSettings,
    # The full score: the fraction was redefined after publication. It is among `values`.
    keys=Keys("mean.mean_full_absorption_score", "first letters", letters, inverted=True),
    output="sae_bench.evals.absorption.eval_output:AbsorptionEvalOutput",
    call=call,
    version="2",  # every SAE has the same draws
    inputs=lambda bench, settings, work, model: {"max_words": settings.max_words},
)
