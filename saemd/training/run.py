"""One training job: from a checked configuration to a finished run directory. Called again, it goes on or reads it."""

from __future__ import annotations

import gc
import json
import time
from pathlib import Path
from typing import Any

import lightning as pl
import numpy as np
import torch
from torch.nn.functional import cosine_similarity

from saemd.activations.cache import ActivationCache
from saemd.activations.datamodule import ActivationDataModule
from saemd.activations.harvest import ensure_cache
from saemd.config import Config
from saemd.errors import bad_value
from saemd.lm.load import lm_info
from saemd.lm.weights import read_mlp_decoder
from saemd.logging import finish, log_summary, make_logger
from saemd.sae import Sources, build, save_sae
from saemd.training import record
from saemd.training.callbacks import CHECKPOINT, ProgressBar, TimedCheckpoint
from saemd.training.module import SAETraining

SAMPLE_TOKENS = 16_384  # cached activations an initialisation may look at


def run_dir(config: Config) -> Path:
    return Path(config.run_root) / f"init={config.init.label}" / f"l0={config.l0}" / f"seed={config.seed}"


def train(config: Config) -> dict[str, Any]:
    """Train, measure and save one SAE; returns `metrics.json`'s content. A finished run is read, not repeated.

    Raises `UserError` where the directory holds a run of another configuration, before anything is written.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)  # Adam's second moment of sparse gradients decays into denormals: slow on a CPU
    folder = run_dir(config)
    cache = ensure_cache(config.lm, config.layer, config.corpus, config.activations, Path(config.cache_root))
    about = record.describe(config, cache)
    record.refuse_another(folder, about)
    if (folder / record.METRICS).is_file():
        return json.loads((folder / record.METRICS).read_text())

    module = _module(config, cache)
    about["start"] = {name: record.digest(getattr(module.sae, name)) for name in ("W_dec", "W_enc")}
    folder.mkdir(parents=True, exist_ok=True)
    record.write_config(folder, about)
    name = f"init={config.init.label} l0={config.l0} seed={config.seed}"
    logger = make_logger(
        config.logger,
        folder,
        group=Path(config.run_root).name,
        run_name=name,
        run_id=about["fingerprint"],
        resolved_config=about["config"],
    )
    exit_code = 1
    try:
        metrics = _fit(config, cache, module, folder, logger, name)
        log_summary(logger, metrics)
        exit_code = 0
    finally:
        finish(logger, exit_code)
        gc.collect()
    return metrics


def _module(config: Config, cache: ActivationCache) -> SAETraining:
    def mlp_decoder():
        mlp = read_mlp_decoder(config.lm, Path(config.cache_root), config.layer)
        return mlp.weight, mlp.post_norm_scale

    d_sae = config.d_sae or 2 * lm_info(config.lm, Path(config.cache_root)).mlp_width
    if config.l0 > d_sae:
        raise bad_value("l0", config.l0, f"the target L0 cannot exceed d_sae={d_sae}")
    sources = Sources(cache.d_in, d_sae, mlp_decoder, lambda: cache.sample(SAMPLE_TOKENS) / cache.scale)
    sae = build(config.init, sources, seed=config.init_seed, scale=cache.scale, bias=config.recipe.bias)  # type: ignore[arg-type]
    steps = config.tokens // config.batch_size
    return SAETraining(sae, config.recipe, target_l0=config.l0, steps=steps, mean_D=cache.mean)


def _fit(config: Config, cache: ActivationCache, module: SAETraining, folder: Path, logger: Any, name: str) -> dict:
    data = ActivationDataModule(
        cache,
        batch_size=config.batch_size,
        tokens=config.tokens,
        seed=config.data_seed,
        window_tokens=config.activations.window_tokens,
        prefetch_batches=config.activations.prefetch_batches,
    )
    steps = module.schedules.steps
    trainer = pl.Trainer(
        accelerator=config.accelerator,
        devices=1,
        max_epochs=1,
        max_steps=steps,  # given outright: Lightning's estimate would restart a resumed run at its first batch
        logger=logger or False,
        callbacks=[ProgressBar(name, steps * config.batch_size), TimedCheckpoint(folder, config.checkpoint_minutes)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    checkpoint = folder / CHECKPOINT
    started = time.perf_counter()
    trainer.fit(module, datamodule=data, ckpt_path=str(checkpoint) if checkpoint.is_file() else None)
    seconds = time.perf_counter() - started
    if module.held_out is None:  # the checkpoint was already that of the last step
        trainer.validate(module, datamodule=data, verbose=False)
    assert module.held_out is not None
    assert trainer.global_step == steps, f"{trainer.global_step} of {steps} steps"
    return _save(config, module, folder, seconds)


def _save(config: Config, module: SAETraining, folder: Path, seconds: float) -> dict[str, Any]:
    sae, held_out = module.sae.cpu(), module.held_out
    assert held_out is not None
    with torch.no_grad():
        cos_dec = cosine_similarity(sae.W_dec, module.start_dec.cpu(), dim=1)
        cos_enc = cosine_similarity(sae.W_enc, module.start_enc.cpu(), dim=0)
    metadata = {
        "model_name": config.lm.name,
        "hook_name": f"blocks.{config.layer}.hook_resid_post",
        "hook_layer": config.layer,
        "context_size": config.activations.context_length,
        "trained_with": "saemd",
    }
    save_sae(sae, folder, metadata)
    latents = {
        "alive": held_out.alive.numpy(),
        "fire_rate": held_out.fire_rate.numpy(),
        "cos_dec_start": cos_dec.numpy(),
        "cos_enc_start": cos_enc.numpy(),
    }
    record.replace_with(folder / record.LATENTS, lambda path: np.savez(path, **latents))  # type: ignore[arg-type]
    metrics = {
        "tokens": module.schedules.steps * config.batch_size,
        "steps": module.schedules.steps,
        "target_l0": config.l0,
        "l0": held_out.l0,
        "fvu": held_out.fvu,
        "explained_variance": held_out.explained_variance,
        "loss": held_out.loss,
        "dead_fraction": held_out.dead_fraction,
        "drift_dec": cos_dec.mean().item(),
        "drift_enc": cos_enc.mean().item(),
        "tokens_per_second": module.tokens_per_second,
        "seconds": seconds,
        "held_out_tokens": held_out.tokens,
    }
    record.replace_with(folder / record.METRICS, lambda path: path.write_text(json.dumps(metrics, indent=2) + "\n"))
    return metrics
