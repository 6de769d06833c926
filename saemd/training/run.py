"""One training job: from a checked configuration to a finished run directory. Called again, it goes on or reads it."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import lightning as pl
import torch

from saemd.activations.cache import ActivationCache
from saemd.activations.datamodule import ActivationDataModule
from saemd.activations.harvest import ensure_cache
from saemd.config import Config
from saemd.errors import bad_value
from saemd.lm.load import lm_info
from saemd.lm.weights import read_mlp_decoder
from saemd.logging import finish, log_summary, make_logger, run_id, run_name
from saemd.sae import Sources, build
from saemd.training import record
from saemd.training.callbacks import CHECKPOINT, CompareSiblings, ProgressBar, SaveRun, TimedCheckpoint
from saemd.training.module import SAETraining

SAMPLE_TOKENS = 16_384  # cached activations an initialisation may look at


def train(config: Config) -> dict[str, Any]:
    """Train, measure and save one SAE; returns `metrics.json`'s content. A finished run is read, not repeated.

    Raises `UserError` where the directory holds a run of another configuration, before anything is written.
    """
    if (metrics := record.finished(config)) is not None:
        return metrics
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)  # Adam's second moment of sparse gradients decays into denormals: slow on a CPU
    folder = record.run_dir(config)
    cache = ensure_cache(config.lm, config.layer, config.corpus, config.activations, Path(config.cache_root))
    about = record.describe(config, cache)
    record.refuse_another(folder, about)

    module, data = _module(config, cache), _data(config, cache)
    about["start"] = {name: record.digest(getattr(module.sae, name)) for name in ("W_dec", "W_enc")}
    folder.mkdir(parents=True, exist_ok=True)
    record.write_config(folder, about)
    name, group = run_name(config.init.label, config.l0, config.seed), Path(config.run_root).name
    identity = run_id(group, name, about["fingerprint"])
    logger = make_logger(
        config.logger, folder, group=group, run_name=name, run_id=identity, resolved_config=about["config"]
    )
    exit_code = 1
    try:
        _fit(config, module, data, folder, logger, name)
        metrics = json.loads((folder / record.METRICS).read_text())
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


def _data(config: Config, cache: ActivationCache) -> ActivationDataModule:
    return ActivationDataModule(
        cache,
        batch_size=config.batch_size,
        tokens=config.tokens,
        seed=config.data_seed,
        window_tokens=config.activations.window_tokens,
        prefetch_batches=config.activations.prefetch_batches,
    )


def _fit(config: Config, module: SAETraining, data: ActivationDataModule, folder: Path, logger: Any, name: str) -> None:
    steps = module.schedules.steps
    trainer = pl.Trainer(
        accelerator=config.accelerator,
        devices=1,
        max_epochs=1,
        max_steps=steps,  # given outright: Lightning's estimate would restart a resumed run at its first batch
        logger=logger,
        callbacks=[
            ProgressBar(name, steps * config.batch_size),
            TimedCheckpoint(folder, config.checkpoint_minutes),
            SaveRun(config, folder),
            CompareSiblings(folder),
        ],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    checkpoint = folder / CHECKPOINT
    trainer.fit(module, datamodule=data, ckpt_path=str(checkpoint) if checkpoint.is_file() else None)
    assert trainer.global_step == steps, f"{trainer.global_step} of {steps} steps"
    if module.held_out is None:  # the checkpoint was already that of the last step, so fit did not validate
        trainer.validate(module, datamodule=data, verbose=False)
