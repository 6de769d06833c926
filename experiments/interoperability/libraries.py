"""Do SAELens, dictionary_learning, sparsify and saemd compute the same with each other's files?

    python experiments/interoperability/libraries.py <result.json>

Run it in an environment that has one of the libraries (see README.md): it adds that library's rows to the result and
prints the table. Each library saves SAEs with random weights, which `saemd.load_sae` reads; `saemd.export` writes SAEs,
which the library loads. The figures are the largest differences of latents and of reconstructions of raw activations,
over the largest value. Exit code 1 where one exceeds 1e-5.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from saemd import export, load_sae
from saemd.sae import ARCHITECTURES, save_sae

D, F, K, TOKENS, NORM, LIMIT = 64, 256, 8, 500, 40.0, 1e-5
Encode = Callable[[torch.Tensor], torch.Tensor]
Peer = tuple[Encode, Encode]  # encode and decode of raw activations


def randomise(module: torch.nn.Module, seed: int) -> None:
    """Weights as of a trained SAE, decoder rows of any norm, biases and thresholds that matter."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if value.is_floating_point() and value.dim():
            drawn = torch.randn(value.shape, generator=generator)
            value.copy_(drawn.abs() * NORM / 4 if "threshold" in name else drawn / (1 if value.dim() == 1 else 8))
        elif "threshold" in name:
            value.fill_(NORM / 4)


def saved_here(folder: Path, architecture: str) -> Path:
    """A finished run with random weights."""
    run = folder / "runs" / f"init={architecture}" / "l0=8" / "seed=0"
    sae = ARCHITECTURES[architecture](D, F, target_l0=K, scale=NORM)
    with torch.no_grad():
        randomise(sae, 1)
        sae.scale.fill_(NORM)
        for parameter in (getattr(sae, "threshold", None), getattr(sae, "b_enc", None)):
            if parameter is not None:
                parameter.copy_(parameter.abs().clamp(max=0.05))
        sae.normalise_decoder()
    save_sae(sae, run, {"model_name": "none", "hook_name": "blocks.0.hook_resid_post"})
    config = {"lm": {"name": "none"}, "layer": 0, "l0": K, "seed": 0, "activations": {"context_length": 128}}
    about = {"config": config, "cache_fingerprint": "none", "sibling_fingerprint": "none"}
    (run / "config.yaml").write_text(yaml.safe_dump(about))
    (run / "metrics.json").write_text('{"l0": 8.0, "fvu": 0.5}')
    return run


def differences(ours: Any, theirs: Peer) -> tuple[float, float]:
    """max |a − b| / max |b| of the latents and of the reconstructions, on random raw activations."""
    x_BD = NORM / D**0.5 * torch.randn(TOKENS, D, generator=torch.Generator().manual_seed(2))
    encode, decode = theirs
    with torch.no_grad():
        z_BF = encode(x_BD)
        assert 0.001 < (z_BF != 0).float().mean() < 0.999, "latents that are all active or none show nothing"
        pairs = ((ours.encode(x_BD), z_BF), (ours(x_BD), decode(z_BF)))
        return tuple(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)  # type: ignore[return-value]


def saelens(folder: Path) -> Iterator[tuple[str, str, Any, Peer]]:
    from sae_lens import SAE
    from sae_lens.registry import get_sae_class, get_sae_training_class
    from sae_lens.saes import BatchTopKTrainingSAEConfig, MatryoshkaBatchTopKTrainingSAEConfig

    cases: dict[str, dict[str, Any]] = {
        "standard": {}, "jumprelu": {}, "gated": {}, "topk": {"k": K},
        "jumprelu, b_dec not subtracted": {"apply_b_dec_to_input": False},
        "gated, b_dec not subtracted": {"apply_b_dec_to_input": False},
        "topk, b_dec not subtracted": {"k": K, "apply_b_dec_to_input": False},
        "topk, rescaled": {"k": K, "rescale_acts_by_decoder_norm": True},
    }  # fmt: skip
    for number, (name, keys) in enumerate(cases.items()):
        sae_class, config_class = get_sae_class(name.split(",")[0])
        sae = sae_class(config_class(d_in=D, d_sae=F, **keys))
        randomise(sae, number)
        sae.save_model(folder / str(number))
        theirs = SAE.load_from_disk(folder / str(number))
        yield name, "read here", load_sae(folder / str(number)), (theirs.encode, theirs.decode)
        if "," not in name:
            old = {"d_in": D, "d_sae": F, "dtype": "float32", "hook_point": "blocks.0.hook_resid_post"}
            old |= {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}} if "k" in keys else {}
            old |= {} if name in ("standard", "topk") else {"architecture": name}
            (folder / str(number) / "cfg.json").write_text(json.dumps(old))
            theirs = SAE.load_from_disk(folder / str(number))
            yield f"{name}, as before 6.0", "read here", load_sae(folder / str(number)), (theirs.encode, theirs.decode)
    for name, config_class in (
        ("batchtopk", BatchTopKTrainingSAEConfig),
        ("matryoshka_batchtopk", MatryoshkaBatchTopKTrainingSAEConfig),
    ):
        more = {"matryoshka_widths": [F // 4, F]} if name.startswith("matryoshka") else {}
        training = get_sae_training_class(name)[0](config_class(d_in=D, d_sae=F, k=K, **more))
        randomise(training, 20)
        training.save_inference_model(folder / name)
        training.save_model(folder / f"{name}-checkpoint")
        theirs = SAE.load_from_disk(folder / name)
        peer = (theirs.encode, theirs.decode)
        yield name, "read here", load_sae(folder / name), peer
        yield f"{name}, checkpoint", "read here", load_sae(folder / f"{name}-checkpoint"), peer
    for architecture, out, run in written(folder, "saelens", ARCHITECTURES):
        theirs = SAE.load_from_disk(out)
        yield architecture, "written here", load_sae(run), (theirs.encode, theirs.decode)


def dictionary_learning(folder: Path) -> Iterator[tuple[str, str, Any, Peer]]:
    if "nnsight" not in sys.modules:  # collects activations, and is not needed here
        sys.modules["nnsight"] = types.ModuleType("nnsight")
        sys.modules["nnsight"].LanguageModel = object  # type: ignore[attr-defined]
    from dictionary_learning import dictionary
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK
    from dictionary_learning.utils import load_dictionary

    saes = [getattr(dictionary, f"{name}AutoEncoder")(D, F) for name in ("", "Gated", "JumpRelu")]
    saes += [dictionary.AutoEncoderNew(D, F), AutoEncoderTopK(D, F, K), BatchTopKSAE(D, F, K)]
    saes.append(MatryoshkaBatchTopKSAE(D, F, K, [F // 4, 3 * F // 4]))
    for number, sae in enumerate(saes):
        name = type(sae).__name__
        randomise(sae, number)
        (folder / name).mkdir()
        torch.save(sae.state_dict(), folder / name / "ae.pt")
        config = {"trainer": {"dict_class": name, **({"k": K} if hasattr(sae, "k") else {})}, "buffer": {}}
        (folder / name / "config.json").write_text(json.dumps(config))
        theirs, _ = load_dictionary(str(folder / name), "cpu")
        yield name, "read here", load_sae(folder / name), (theirs.encode, theirs.decode)
    for architecture, out, run in written(folder, "dictionary_learning", ARCHITECTURES):
        theirs, _ = load_dictionary(str(out), "cpu")
        yield architecture, "written here", load_sae(run), (theirs.encode, theirs.decode)


def sparsify(folder: Path) -> Iterator[tuple[str, str, Any, Peer]]:
    from sparsify import SparseCoder, SparseCoderConfig

    def peer(coder: Any) -> Peer:
        def encode(x_BD: torch.Tensor) -> torch.Tensor:
            found = coder.encode(x_BD)
            return torch.zeros(len(x_BD), F).scatter(1, found.top_indices, found.top_acts)

        def decode(z_BF: torch.Tensor) -> torch.Tensor:
            top = z_BF.topk(K, dim=1)
            return coder.decode(top.values, top.indices)

        return encode, decode

    coder = SparseCoder(D, SparseCoderConfig(num_latents=F, k=K))
    randomise(coder, 0)
    coder.save_to_disk(folder / "topk")
    yield "topk", "read here", load_sae(folder / "topk"), peer(SparseCoder.load_from_disk(folder / "topk"))
    for architecture, out, run in written(folder, "sparsify", ["topk"]):
        yield architecture, "written here", load_sae(run), peer(SparseCoder.load_from_disk(out))


def written(folder: Path, form: str, architectures: Any) -> Iterator[tuple[str, Path, Path]]:
    """Architecture, export and run of SAEs that `saemd.export` has written."""
    for architecture in architectures:
        run, out = saved_here(folder, architecture), folder / "written" / architecture
        assert export.main([f"run={run}", f"out={out}", f"format={form}"]) == 0
        yield architecture, out, run


PEERS = {"sae-lens": saelens, "dictionary-learning": dictionary_learning, "eai-sparsify": sparsify}


def main(path: Path) -> int:
    rows = json.loads(path.read_text()) if path.exists() else []
    for package, cases in PEERS.items():
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        rows = [row for row in rows if row["library"] != package]
        with tempfile.TemporaryDirectory() as folder:
            for architecture, direction, ours, theirs in cases(Path(folder)):
                latents, whole = differences(ours, theirs)
                row = {"library": package, "version": version, "architecture": architecture, "direction": direction}
                rows.append({**row, "latents": float(f"{latents:.1e}"), "reconstructions": float(f"{whole:.1e}")})
    path.write_text("[\n" + ",\n".join(f" {json.dumps(row)}" for row in rows) + "\n]\n")
    head = ["library", "version", "architecture", "direction", "latents", "reconstructions"]
    print("\n".join(f"| {' | '.join(str(row[key]) for key in head)} |" for row in rows))
    return int(any(max(row["latents"], row["reconstructions"]) > LIMIT for row in rows))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1])))
