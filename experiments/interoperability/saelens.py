"""Does SAELens load an exported SAE, and compute the same with it?

    python experiments/interoperability/saelens.py <folder> [<folder> …]

Each folder is an exported SAE or a finished run. Needs sae-lens, in an environment of its own (see README.md); of this
project's own needs only torch, safetensors and omegaconf. Exit code 1 where the two differ by more than 1e-5, or where
SAELens does not learn which model and which hook point the SAE is for.
"""

from __future__ import annotations

import importlib.metadata
import sys

import torch
from sae_lens import SAE

from saemd import load_sae

TOKENS, NORM, LIMIT = 2_000, 150.0, 1e-5  # NORM: of a token's activation at layer 12 of SmolLM2-135M


def largest_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """max |a − b| / max |b|: raw activations have norms in the hundreds."""
    return ((a - b).abs().max() / b.abs().max()).item()


@torch.no_grad()
def agrees(folder: str) -> bool:
    theirs, ours = SAE.load_from_disk(folder), load_sae(folder)
    generator = torch.Generator().manual_seed(0)
    random_BD = torch.randn(TOKENS, ours.d_in, generator=generator) * NORM / ours.d_in**0.5
    # Random directions fire few latents; sums of 40 decoder rows are what the SAE was trained for.
    picked_BF = torch.zeros(TOKENS, ours.d_sae)
    picked_BF.scatter_(1, torch.randint(ours.d_sae, (TOKENS, 40), generator=generator), NORM / 40**0.5)
    x_BD = torch.cat([random_BD, ours.decode(picked_BF)])
    z_BF = ours.encode(x_BD)
    differences = {
        "latents": largest_difference(theirs.encode(x_BD), z_BF),
        "decode": largest_difference(theirs.decode(z_BF), ours.decode(z_BF)),
        "whole": largest_difference(theirs(x_BD), ours(x_BD)),
    }
    active = (z_BF > 0).sum(1).float()
    numbers = "  ".join(f"{name} {value:.1e}" for name, value in differences.items())
    l0 = f"L0 {active[:TOKENS].mean():.0f} and {active[TOKENS:].mean():.0f}"
    metadata = theirs.cfg.metadata
    print(f"{folder}\n  {type(theirs).__name__} d_in {ours.d_in} d_sae {ours.d_sae}  {l0}  {numbers}")
    print(f"  for {metadata.model_name} at {metadata.hook_name}, contexts of {metadata.context_size}")
    return max(differences.values()) <= LIMIT and None not in (metadata.model_name, metadata.hook_name)


def main(folders: list[str]) -> int:
    if not folders:
        print(__doc__)
        return 2
    print(f"sae-lens {importlib.metadata.version('sae-lens')}, torch {torch.__version__}")
    return 0 if all([agrees(folder) for folder in folders]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
