"""A run root as a finished sweep leaves it, with random dictionaries in place of trained ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

F, D = 48, 16
TOKENS = 1_000_000


def rows(seed: int, n: int = F, d: int = D) -> Tensor:
    """Random unit rows [n, d]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, d, generator=generator), dim=1)


def fake_run(
    run_root: Path,
    init: str = "uniform",
    l0: int = 40,
    seed: int = 24,
    *,
    start: Tensor | None = None,
    noise: float = 0.5,
    alive: np.ndarray | None = None,
    kind: str = "same",
    config: dict[str, Any] | None = None,
    parts: dict[str, str] | None = None,
    snapshots: Sequence[int] = (),
) -> Path:
    """Write one finished run and return its folder: `start` rows (default: of the seed) moved by `noise`, 0 to 1.

    `kind` is the sibling fingerprint, `parts` the further parts of the folder. The encoder is exported with a scalar
    that cosines must not see. `snapshots` lie on the straight way from the start to the end, by their tokens.
    """
    start = rows(seed) if start is None else start
    end = torch.nn.functional.normalize((1 - noise) * start + noise * rows(1000 + seed + 7 * l0, *start.shape), dim=1)
    encoder = torch.nn.functional.normalize(end + 0.3 * noise * rows(2000 + seed, *start.shape), dim=1)
    between = [f"{key}={value}" for key, value in sorted((parts or {}).items())]
    run_dir = Path(run_root, f"init={init}", f"l0={l0}", *between, f"seed={seed}")
    run_dir.mkdir(parents=True, exist_ok=True)
    for tokens in snapshots:
        way = tokens / TOKENS
        moved = [torch.nn.functional.normalize((1 - way) * start + way * rows, dim=1) for rows in (end, encoder)]
        folder = run_dir / "snapshots" / f"tokens={tokens}"
        folder.mkdir(parents=True, exist_ok=True)
        _write_sae(folder, start, moved[0], moved[1], alive, tokens, l0)
    _write_sae(run_dir, start, end, encoder, alive, TOKENS, l0)
    digest = hashlib.sha256(start.numpy().tobytes()).hexdigest()
    saved = {
        "config": {
            "init": {"name": init, "label": init, "encoder": "dual"},
            "lm": {"name": "tiny", "revision": None},
            "layer": 12,
            "l0": l0,
            "seed": seed,
            "init_seed": seed,
            "data_seed": seed,
            "tokens": TOKENS,
            **(config or {}),
        },
        "fingerprint": f"{kind}-{seed}",
        "sibling_fingerprint": f"{kind}-{init}-{l0}",
        "cache_fingerprint": "cache",
        "cache": {"scale": 12.5, "n_train": 1_000_000, "lm": "tiny", "layer": 12},
        "versions": {"saemd": "0.1.0", "torch": "2.13.0"},
        "git_commit": None,
        "start": {"W_dec": digest, "W_enc": digest},
    }
    (run_dir / "config.yaml").write_text(yaml.safe_dump(saved))
    return run_dir


def _write_sae(
    folder: Path, start: Tensor, end: Tensor, encoder: Tensor, alive: np.ndarray | None, tokens: int, l0: int
) -> None:
    """The files of an SAE, of a run's end or a snapshot."""
    n, d = start.shape
    weights = {"W_enc": 137.0 * encoder.T, "W_dec": end, "b_enc": torch.zeros(n), "b_dec": torch.zeros(d)}
    weights = {name: weight.contiguous() for name, weight in weights.items()}
    save_file({**weights, "threshold": torch.ones(n)}, folder / "sae_weights.safetensors")
    np.savez(
        folder / "latents.npz",
        alive=np.ones(n, dtype=bool) if alive is None else alive,
        fire_rate=np.geomspace(2e-4, 0.5, n, dtype=np.float32),
        ablation_fvu=np.geomspace(1e-6, 1e-2, n, dtype=np.float32),
        cos_dec_start=(end * start).sum(dim=1).numpy(),
        cos_enc_start=(encoder * start).sum(dim=1).numpy(),
    )
    fvu = min(1.0, 0.9 / l0**0.4 * (TOKENS / max(tokens, 1)) ** 0.2)
    metrics = {"tokens": tokens, "steps": tokens // 2048, "target_l0": l0, "l0": l0 * 1.03, "fvu": fvu}
    metrics |= {"explained_variance": 1 - fvu, "loss": 0.2, "dead_fraction": 0.02, "drift_dec": 0.7}
    metrics |= {"drift_enc": 0.7, "tokens_per_second": 9000.0, "seconds": 110.0}
    (folder / "metrics.json").write_text(json.dumps(metrics))


def fake_sweep(
    run_root: Path,
    inits: Sequence[str] = ("mirror", "uniform"),
    targets: Sequence[int] = (20, 40),
    seeds: Sequence[int] = (24, 42),
    snapshots: Sequence[int] = (),
) -> None:
    """Finished runs of every init, L0 and seed. The seeds of `mirror` share their start."""
    for init in inits:
        start = rows(5) if init == "mirror" else None
        for l0 in targets:
            for seed in seeds:
                fake_run(run_root, init, l0, seed, start=start, snapshots=snapshots)
