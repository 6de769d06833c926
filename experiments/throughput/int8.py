"""Would a harvest with 8-bit products be faster, and what would it change in the activations?

    python experiments/throughput/int8.py [contexts=64] [rounds=4] [out=…]      # about two minutes; int8.json

SmolLM2-135M to layer 12 on Wikipedia summaries, contexts of 256 tokens, eight at a time, one thread: in float32 and
bfloat16, and with torch's dynamic 8-bit linear layers (a scale per output of the weights, one per batch of the inputs),
everywhere, or everywhere but in the MLP's down projection, whose inputs have outliers. Error: Σ‖x̂ − x‖² / Σ‖x − x̄‖² of
the layer's output against float32, without each context's first token and tokens of ten times the median norm, which a
cache leaves out too.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

import torch
from step import processor
from torch import Tensor, nn
from torch.ao.quantization import quantize_dynamic
from torch.ao.quantization.qconfig import per_channel_dynamic_qconfig

from saemd.arguments import key_values
from saemd.composition import compose_all
from saemd.config import Config
from saemd.corpus import documents
from saemd.lm.load import LM, load_lm, residual_stream
from saemd.threads import use_threads

T, AT_ONCE, LAYER = 256, 8, 12
KINDS: dict[str, Callable[[Config], nn.Module]] = {
    "float32": lambda config: loaded(config, torch.float32).model,
    "bfloat16": lambda config: loaded(config, torch.bfloat16).model,
    "int8": lambda config: quantised(config, leave=()),
    "int8 but for the down projection": lambda config: quantised(config, leave=("down_proj",)),
}


def loaded(config: Config, dtype: torch.dtype = torch.float32) -> LM:
    return load_lm(config.lm, Path(config.cache_root), n_layers=LAYER + 1, dtype=dtype)


def quantised(config: Config, leave: tuple[str, ...]) -> nn.Module:
    model = loaded(config).model
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    chosen = [name for name in names if name.split(".")[-1] not in (*leave, "lm_head")]
    return quantize_dynamic(model, dict.fromkeys(chosen, per_channel_dynamic_qconfig), dtype=torch.qint8)


def contexts(config: Config, n: int) -> Tensor:
    """Token ids [n, T]: documents one after the other."""
    tokenizer, ids = loaded(config).tokenizer, []
    for document in documents(config.corpus, Path(config.cache_root), "train"):
        ids += tokenizer(document)["input_ids"]
        if len(ids) >= n * T:
            break
    return torch.tensor(ids[: n * T]).reshape(n, T)


def outputs(model: nn.Module, batches: Iterable[Tensor]) -> Tensor:
    """Of all tokens but each context's first [N, D]."""
    return torch.cat([residual_stream(model, LAYER, batch)[:, 1:].float().flatten(0, 1) for batch in batches])


def main(words: list[str]) -> None:
    given = key_values(words, ("contexts", "rounds", "out"))
    use_threads(1)
    (config,) = compose_all([])
    batches = contexts(config, int(given.get("contexts", 64))).split(AT_ONCE)
    models = {kind: make(config) for kind, make in KINDS.items()}
    exact = outputs(models["float32"], batches)
    norms = exact.norm(dim=1)
    kept = norms < 10 * norms.median()
    variance = (exact[kept] - exact[kept].mean(0)).pow(2).sum()
    errors = {kind: float((outputs(m, batches) - exact)[kept].pow(2).sum() / variance) for kind, m in models.items()}
    seconds: dict[str, list[float]] = {kind: [] for kind in models}
    for _ in range(int(given.get("rounds", 4))):
        for kind, model in models.items():
            start = time.perf_counter()
            outputs(model, islice(batches, 3))
            seconds[kind].append(time.perf_counter() - start)
    found = {
        kind: {"error": errors[kind], "times float32's speed": min(seconds["float32"]) / min(seconds[kind])}
        for kind in models
    }
    out = Path(given.get("out", Path(__file__).parent / "int8.json"))
    out.write_text(json.dumps({"processor": processor(), "tokens": int(kept.sum()), "kinds": found}, indent=1) + "\n")
    print(out.read_text())


if __name__ == "__main__":
    main(sys.argv[1:])
