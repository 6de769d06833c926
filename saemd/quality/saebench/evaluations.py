"""Each evaluation as a call of SAEBench's own code for one SAE. Imported in SAEBench's environment alone.

Everything happens below the working directory, which the worker sets for each seed: `artifacts/` keeps what depends not
on the SAE (activations, probes, RAVEL's prompts), and copies of data sets are linked there under their hub names.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import functools
import importlib
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sae_bench.evals.absorption import vocab
from sae_bench.sae_bench_utils import activation_collection
from sae_bench.sae_bench_utils.testing_utils import validate_eval_output_format_file
from torch import nn
from tqdm import tqdm
from transformer_lens import HookedTransformer
from transformers import AutoModelForCausalLM

from saemd.errors import UserError
from saemd.quality.saebench.adapter import SAEBenchSAE
from saemd.quality.saebench.draws import drawn_alike
from saemd.quality.saebench.fast import fast, first_letters
from saemd.quality.saebench.judge import judged_by
from saemd.quality.saebench.last_tokens import last_tokens, probes_shown
from saemd.quality.saebench.one_thread import fits_on_one_thread
from saemd.quality.saebench.packaged import packaged
from saemd.quality.saebench.replaced import replaced
from saemd.quality.saebench.residual import residual

ARTIFACTS = Path("artifacts")
Extra = dict[str, Any]  # what SAEBench's JSON does not say


def evaluate(
    job: dict[str, Any], name: str, sae: SAEBenchSAE, model: HookedTransformer | None, seed: int
) -> tuple[Path, Extra]:
    """SAEBench's JSON for one SAE, valid by its own schema, in ./results; and what it does not say.

    Raises `UserError` where SAEBench gives none, or what it raised itself.
    """
    kind, config = job["evaluation"], dict(job["config"])
    if "random_seed" in config:
        config["random_seed"] = seed
    if kind not in ("core", "sae_probes"):
        config["model_name"] = job["model"]["name"]
    for draws in (random.seed, np.random.seed, torch.manual_seed):  # Absorption draws unseeded
        draws(seed)
    given: Any = model
    if model and kind == "absorption":
        given = first_letters(model, job["layer"], config["prompt_token_pos"])
    faster = nullcontext()
    if model:
        passes = residual(model, job["layer"], Path(job["work"]) / "model")
        faster = last_tokens(model, passes) if kind == "sae_probes" else fast(passes)
    loader = replaced(HookedTransformer, from_pretrained_no_processing=lambda *a, **k: given)
    results = Path("results")
    results.mkdir(exist_ok=True)
    for old in results.rglob(f"{name}_custom_sae_eval_results.json"):
        old.unlink()
    data = packaged(job["packaged"]) if job["packaged"] else nullcontext()
    with loader, data, faster, fits_on_one_thread(), drawn_alike(seed), torch.set_grad_enabled(True):
        extra = EVALUATIONS[kind](job, config, [(name, sae)], results) or {}
    found = sorted(results.rglob(f"{name}_custom_sae_eval_results.json"))
    if not found:
        raise UserError("SAEBench ended without a result; its log says why")
    validate_eval_output_format_file(str(found[0]), _output_type(kind))
    return found[0], extra


class NotApplicableError(UserError):
    """The evaluation makes no sense for this model; the message says what was measured."""


def _core(job: Any, config: Any, saes: Any, results: Path) -> None:
    from sae_bench.evals.core import main

    failures: list[str] = []

    def failed(message: str, *args: Any) -> None:  # it logs what it swallows
        failures.append(message)
        print(message)

    once = lambda **_: lambda function: function  # noqa: E731 - it would try a missing data set four times, for a minute
    with replaced(main.logger, error=failed), replaced(main.general_utils, retry_with_exponential_backoff=once):
        found = main.multiple_evals(
            selected_saes=saes, dataset=job["text"], output_folder=str(results), device=job["device"], verbose=True,
            force_rerun=True, dtype=config["llm_dtype"], context_size=config["context_size"],
            eval_batch_size_prompts=config["batch_size_prompts"],
            n_eval_reconstruction_batches=config["n_eval_reconstruction_batches"],
            n_eval_sparsity_variance_batches=config["n_eval_sparsity_variance_batches"],
            exclude_special_tokens_from_reconstruction=config["exclude_special_tokens_from_reconstruction"],
            compute_featurewise_density_statistics=True, compute_featurewise_weight_based_metrics=True,
        )  # fmt: skip
    if failures or not found:
        raise UserError(" ".join(failures[0].split()) if failures else "core: SAEBench gave no result and no reason")


def _autointerp(job: Any, config: Any, saes: Any, results: Path) -> Extra:
    from sae_bench.evals.autointerp import main

    judge = job["judge"]
    config["dataset_name"] = job["text"]
    with judged_by(judge["base_url"], judge["name"], judge["key_variable"]) as replies:
        main.run_eval(
            main.AutoInterpEvalConfig(**config), saes, job["device"], judge["key"], str(results), force_rerun=True
        )
    replies.refuse_nonsense(judge["name"])
    return {"judge": judge["name"], "replies": replies.predictions, "replies_not_parsed": replies.unparsed,
            "not_parsed": replies.examples}  # fmt: skip


def _sparse_probing(job: Any, config: Any, saes: Any, results: Path) -> None:
    from sae_bench.evals.sparse_probing import main

    main.run_eval(main.SparseProbingEvalConfig(**config), saes, job["device"], str(results), force_rerun=True)


def _sae_probes(job: Any, config: Any, saes: Any, results: Path) -> None:
    from sae_bench.evals.sparse_probing_sae_probes import main

    config["model_name"], config["model_cache_path"] = job["model"]["name"], job["kept"]
    asked = main.SparseProbingSaeProbesEvalConfig(**config)
    with probes_shown(len(asked.dataset_names)):
        main.run_eval(asked, saes, job["device"], str(results), force_rerun=True)


def _absorption(job: Any, config: Any, saes: Any, results: Path) -> None:
    from sae_bench.evals.absorption import common, feature_absorption, main

    own = ARTIFACTS.absolute() / "absorption"  # else in site-packages, for ever
    probing = functools.partial(
        main.run_k_sparse_probing_experiment, probes_dir=own / "probes", experiment_dir=own / "k_sparse_probing"
    )
    absorption = functools.partial(
        main.run_feature_absortion_experiment, probes_dir=own / "probes", experiment_dir=own / "feature_absorption",
        sparse_probing_experiment_dir=own / "k_sparse_probing",
    )  # fmt: skip

    def absorption_of_the_same_prompts(**arguments: Any) -> Any:
        random.seed(config["random_seed"])  # they are drawn: the first SAE, for which probes were trained, would differ
        return absorption(**arguments)

    words = functools.partial(_words, most=job["max_words"], seed=config["random_seed"])
    with (
        replaced(
            main,
            run_k_sparse_probing_experiment=probing,
            run_feature_absortion_experiment=absorption_of_the_same_prompts,
        ),
        replaced(common, get_alpha_tokens=words),
        replaced(feature_absorption, get_alpha_tokens=words),
    ):
        found = main.run_eval(main.AbsorptionEvalConfig(**config), saes, job["device"], str(results), force_rerun=True)
    if not found:
        probes = json.loads((ARTIFACTS / "absorption" / f"{saes[0][0]}_custom_sae_k_sparse_probing.json").read_text())
        readable = sum((probe["f1_probe"] or 0) > config["min_GT_probe_f1"] for probe in probes)
        raise NotApplicableError(
            f"only {readable} of 26 first letters can be read from this layer (F1 above {config['min_GT_probe_f1']}), "
            f"{config['min_feats_for_eval']} are wanted"
        )


def _ravel(job: Any, config: Any, saes: Any, results: Path) -> Extra:
    """Beside SAEBench's figures, those of the two masks that need no training: its score must be seen against them."""
    from sae_bench.evals.ravel import main

    config["artifact_dir"] = str(ARTIFACTS / "ravel")
    _lay(Path("adamkarvonen/ravel_prompts"), ARTIFACTS / "ravel" / "base")
    name = config["model_name"]  # a model folder of this name lies in the working directory
    frozen = SimpleNamespace(
        from_pretrained=lambda *a, **k: AutoModelForCausalLM.from_pretrained(*a, **k).requires_grad_(False)
    )  # its mask alone is trained: gradients of the model's own weights would take half of the time
    train = main.mdbm.train_mdbm

    def shown(*args: Any, train_loader: Any, **more: Any) -> Any:
        return train(*args, train_loader=tqdm(train_loader, desc="RAVEL's mask, batches of an epoch"), **more)

    def measured(train_mdbm: Any, place: Path) -> dict[str, float]:
        with replaced(main.mdbm, train_mdbm=train_mdbm):
            main.run_eval(main.RAVELEvalConfig(**config), saes, job["device"], str(place), force_rerun=True)
        (found,) = place.rglob(f"{saes[0][0]}_custom_sae_eval_results.json")
        return json.loads(found.read_text())["eval_result_metrics"]["ravel"]

    with replaced(main, LLM_NAME_MAP={name: name}, AutoModelForCausalLM=frozen), _layers_that_return_tuples():
        measured(shown, results)
        return {
            what: measured(functools.partial(_untrained, mask), Path("untrained"))
            for what, mask in (("nothing_swapped", -1.0), ("everything_swapped", 1.0))
        }


def _untrained(mask: float, model: Any, tokenizer: Any, config: Any, sae: Any, **_: Any) -> nn.Module:
    """A mask for RAVEL that swaps every latent (`mask` above 0) or none."""
    from sae_bench.evals.ravel.mdbm import MDBM

    made = MDBM(model, tokenizer, config, sae)
    made.binary_mask.data.fill_(mask)
    return made


def _unlearning(job: Any, config: Any, saes: Any, results: Path) -> None:
    from sae_bench.evals.unlearning import main

    _lay(Path("bio-forget-corpus.jsonl"), Path("sae_bench/evals/unlearning/data/bio-forget-corpus.jsonl"))
    main.run_eval(main.UnlearningEvalConfig(**config), saes, job["device"], str(results), force_rerun=True)


def _shift(job: Any, config: Any, saes: Any, results: Path) -> None:
    """SCR and TPP."""
    from sae_bench.evals.scr_and_tpp import main

    if job["packaged"] and job["evaluation"] == "tpp":
        config["column1_vals_lookup"] = {}  # SCR's alone; its JSON would name sets that were not measured
    main.run_eval(main.ScrAndTppEvalConfig(**config), saes, job["device"], str(results), force_rerun=True)


EVALUATIONS: dict[str, Callable[[Any, Any, Any, Path], Extra | None]] = {
    "core": _core,
    "autointerp": _autointerp,
    "sparse_probing": _sparse_probing,
    "sae_probes": _sae_probes,
    "absorption": _absorption,
    "ravel": _ravel,
    "unlearning": _unlearning,
    "scr": _shift,
    "tpp": _shift,
}


def _output_type(kind: str) -> Any:
    module, name = {
        "core": ("core", "CoreEvalOutput"),
        "autointerp": ("autointerp", "AutoInterpEvalOutput"),
        "sparse_probing": ("sparse_probing", "SparseProbingEvalOutput"),
        "sae_probes": ("sparse_probing_sae_probes", "SparseProbingSaeProbesEvalOutput"),
        "absorption": ("absorption", "AbsorptionEvalOutput"),
        "ravel": ("ravel", "RAVELEvalOutput"),
        "unlearning": ("unlearning", "UnlearningEvalOutput"),
        "scr": ("scr_and_tpp", "ScrEvalOutput"),
        "tpp": ("scr_and_tpp", "TppEvalOutput"),
    }[kind]
    return getattr(importlib.import_module(f"sae_bench.evals.{module}.eval_output"), name)


def _lay(copy: Path, place: Path) -> None:
    """Links the user's `copy`, where there is one, to where SAEBench looks for it."""
    if copy.exists() and not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(copy.absolute())


def _words(tokenizer: Any, most: int, seed: int) -> list[str]:
    """The vocabulary's words, or `most` of them; sorted, as a tokenizer gives them in another order in each process."""
    words = sorted(vocab.get_alpha_tokens(tokenizer))
    return random.Random(seed).sample(words, most) if 0 < most < len(words) else words


class _TupleLayer:
    """A decoder layer whose hooks see a tuple: Llama's layers return a tensor, and RAVEL's hooks index `outputs[0]`."""

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer

    def register_forward_hook(self, hook: Any) -> Any:
        def on_tuple(module: nn.Module, inputs: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return hook(module, inputs, output)
            changed = hook(module, inputs, (output,))
            return None if changed is None else changed[0]

        return self._layer.register_forward_hook(on_tuple)


@contextmanager
def _layers_that_return_tuples() -> Iterator[None]:
    """SAEBench finds the layers of Gemma-2 and GPT-NeoX alone; Llama's are where Gemma's are."""

    def get_module(model: Any, layer: int) -> Any:
        return _TupleLayer(model.model.layers[layer])

    with replaced(activation_collection, get_module=get_module):
        yield
