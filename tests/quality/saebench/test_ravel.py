"""RAVEL through SAEBench's own code: do its swaps reach the answers, on a Llama too, and at the entity's last token?

Needs the environment that `make saebench` builds.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from saemd.composition import compose_all
from saemd.lm.files import resolve
from tests.quality.saebench.real import CHOSEN, NEEDS_SAEBENCH, measure, other_python

pytestmark = NEEDS_SAEBENCH


def test_swapping_all_latents_changes_answers_and_swapping_none_does_not(world):
    """The two ends that a trained mask lies between."""
    (outcome,) = measure(world, "ravel", replace(CHOSEN["ravel"], data=str(world.data)), world.run)
    assert outcome.status == "done", outcome.reason
    everything, nothing = outcome.details["everything_swapped"], outcome.details["nothing_swapped"]
    assert everything["cause_score"] > 0.2  # of a random model: .28 and more, by the processor
    assert everything["isolation_score"] < 0.9
    assert nothing["cause_score"] < everything["cause_score"]
    assert nothing["isolation_score"] > everything["isolation_score"]
    assert json.loads(Path(outcome.details["results"][0]).read_text())["eval_result_metrics"]["ravel"] != everything


LLAMA = """
import torch
from types import SimpleNamespace
from transformers import LlamaConfig, LlamaForCausalLM
from sae_bench.evals.ravel import mdbm
from saemd.quality.saebench.worker.models import layers_that_return_tuples

torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
    num_key_value_heads=1,
)).eval().requires_grad_(False)
sae = SimpleNamespace(cfg=SimpleNamespace(hook_layer=1, d_sae=16), encode=lambda x: x, decode=lambda z: z)
base, source = ({"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in torch.randint(50, (2, 2, 7)))
at, of = torch.tensor([-2, -3]), torch.tensor([-4, -1])
rows = torch.arange(2)
with layers_that_return_tuples():
    swap = mdbm.MDBM(model, SimpleNamespace(decode=str), SimpleNamespace(llm_batch_size=2), sae)
    swap.binary_mask.data.fill_(1.0)
    found, _ = swap(base, source, at, of)
    swap(base, source, at, of, training_mode=True)[0].sum().backward()
states = model(source["input_ids"], output_hidden_states=True).hidden_states[2]
clean = model(base["input_ids"]).logits[:, -1]

def put(module, inputs, output):
    assert isinstance(output, torch.Tensor)  # else the wrapper is not needed
    output[rows, at] = states[rows, of]
    return output

model.model.layers[1].register_forward_hook(put)
torch.testing.assert_close(found, model(base["input_ids"]).logits[:, -1])
assert (found - clean).abs().max() > 1e-3
assert swap.binary_mask.grad.abs().max() > 0
"""


def test_ravels_hooks_reach_a_llama_whose_layers_return_tensors():
    """Against the swap done by hand."""
    ran = other_python(LLAMA)
    assert ran.returncode == 0, ran.stderr


POSITIONS = """
import sys
from pathlib import Path
from types import SimpleNamespace
from transformers import AutoTokenizer
from sae_bench.evals.ravel.instance import RAVELInstance
from saemd.quality.saebench.worker import models

tokenizer = AutoTokenizer.from_pretrained(models.prepare(Path(sys.argv[1]), Path(sys.argv[2])))
made = RAVELInstance()
made.entityLBL_attrTYP_attrLBL = {name: {"Country": "x"} for name in ("New York", "Ulaanbaatar")}
made.attribute_type_to_templates = {"Country": ["City: %s. Country:", "In %s", "%s:"]}
made.template_splits = {template: "train" for template in made.attribute_type_to_templates["Country"]}
made.entity_splits = dict.fromkeys(made.entityLBL_attrTYP_attrLBL, "train")
for prompt in made.build_and_tokenize_prompts(tokenizer):
    before = tokenizer.decode(prompt.input_ids[: len(prompt.input_ids) + prompt.final_entity_token_pos + 1])
    entity = prompt.text.index(prompt.entity_label)
    assert before == tokenizer.bos_token + prompt.text[:entity] + prompt.entity_label, before
"""


def test_ravel_swaps_at_the_entitys_last_token(cache_root, tmp_path):
    """SAEBench counts on BOS for this: without it, it takes the token behind, or the prompt's first."""
    (config,) = compose_all([f"cache_root={cache_root}"])
    ran = other_python(POSITIONS, resolve(config.lm, cache_root), tmp_path / "prepared")
    assert ran.returncode == 0, ran.stderr
