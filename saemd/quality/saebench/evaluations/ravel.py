"""`saebench_ravel`: can an attribute of an entity be changed (cause) while the others stay (isolation)?

With `data: packaged` the entities are those that the model knows, see `saemd.quality.knowledge`.
"""

import dataclasses
import functools
import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from saemd.errors import bad_value
from saemd.quality.saebench.evaluation import Bench, Call, Data, Evaluation, Extra
from saemd.quality.saebench.results import Keys, Result
from saemd.quality.saebench.settings import PACKAGED, SAEBenchSettings


@dataclass
class RavelSettings(SAEBenchSettings):
    """`saebench_ravel.…`. With `data: packaged` the default selection stands for all that the model knows."""

    llm_batch_size: int = 8  # SAEBench: a quarter of the others'
    # A command line adds to it; {nobel_prize_winner: []} leaves a type out.
    entity_attribute_selection: dict[str, list[str]] = field(default_factory=lambda: {
        "city": ["Country", "Continent", "Language"], "nobel_prize_winner": ["Country of Birth", "Field", "Gender"],
    })  # fmt: skip
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


def not_applicable(bench: Bench, settings: RavelSettings) -> str | None:
    """Measured once for the bench's model, where the entities are packaged."""
    if settings.data != PACKAGED:
        return None
    from saemd.quality.knowledge.ravel import FEWEST, packaged_ravel

    entities = packaged_ravel(bench)
    if entities.attributes:
        return None
    return f"{bench.info.name} knows too little: {entities.summary}; {FEWEST} are wanted"


def packaged(bench: Bench, settings: RavelSettings) -> Data:
    """The packaged entities, with what the settings select of them: by default everything."""
    from saemd.quality.knowledge.ravel import packaged_ravel

    entities = packaged_ravel(bench)
    hub = RavelSettings().entity_attribute_selection  # a command line adds to these, so they count as not chosen
    selected = {name: chosen for name, chosen in settings.entity_attribute_selection.items() if chosen != hub.get(name)}
    selected = selected or entities.attributes
    for entity_type, attributes in selected.items():
        if len(set(attributes) & set(entities.attributes.get(entity_type, []))) < max(2, len(attributes)):
            remedy = f"with data=packaged at least two attributes of {entities.attributes}"
            raise bad_value("entity_attribute_selection", {entity_type: attributes}, remedy)
    chosen = dataclasses.replace(settings, entity_attribute_selection=selected)
    return Data(chosen, entities.data, {"known": entities.knowledge})


def call(run: Call) -> Extra:
    """Beside SAEBench's figures, those of the two masks that need no training: its score must be seen against them."""
    from sae_bench.evals.ravel import main
    from tqdm import tqdm
    from transformers import AutoModelForCausalLM

    from saemd.quality.saebench.worker.models import layers_that_return_tuples
    from saemd.quality.saebench.worker.place import link_copy

    artifacts = Path("artifacts/ravel")
    link_copy(Path("adamkarvonen/ravel_prompts"), artifacts / "base")
    config = main.RAVELEvalConfig(**run.config, artifact_dir=str(artifacts))
    name = run.config["model_name"]  # a model folder of this name lies in the working directory
    # The mask alone is trained: gradients of the model's own weights would take half of the time.
    frozen = SimpleNamespace(
        from_pretrained=lambda *a, **k: AutoModelForCausalLM.from_pretrained(*a, **k).requires_grad_(False)
    )
    train = main.mdbm.train_mdbm

    def train_with_bar(*args: Any, train_loader: Any, **more: Any) -> Any:
        return train(*args, train_loader=tqdm(train_loader, desc="RAVEL's mask, batches of an epoch"), **more)

    def measure(train_mdbm: Any, results: Path) -> dict[str, float]:
        with patch.multiple(main.mdbm, train_mdbm=train_mdbm):
            run.run_eval(main.run_eval, config, results)
        (path,) = results.rglob(f"{run.name}_custom_sae_eval_results.json")
        return json.loads(path.read_text())["eval_result_metrics"]["ravel"]

    with patch.multiple(main, LLM_NAME_MAP={name: name}, AutoModelForCausalLM=frozen), layers_that_return_tuples():
        measure(train_with_bar, run.results)
        return {
            key: measure(functools.partial(untrained, mask), Path("untrained"))
            for key, mask in (("nothing_swapped", -1.0), ("everything_swapped", 1.0))
        }


def untrained(mask: float, model: Any, tokenizer: Any, config: Any, sae: Any, **_: Any) -> Any:
    """A mask for RAVEL that swaps every latent (`mask` above 0) or none."""
    from sae_bench.evals.ravel.mdbm import MDBM

    module = MDBM(model, tokenizer, config, sae)
    module.binary_mask.data.fill_(mask)
    return module


def attributes(result: Result, leaf: str) -> list[float]:
    entities = result["eval_result_unstructured"].values()
    return [attribute["disentangle_score"] for entity in entities for attribute in entity.values()]


RAVEL = Evaluation(
    name="ravel",
    score="saebench_ravel",
    title="RAVEL",
    needs="ravel_prompts",
    settings=RavelSettings,
    keys=Keys("ravel.disentanglement_score", "attributes", attributes),
    output="sae_bench.evals.ravel.eval_output:RAVELEvalOutput",
    call=call,
    hooked=False,
    not_applicable=not_applicable,
    packaged=packaged,
)
