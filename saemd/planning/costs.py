"""FLOPs and bytes of the work: arithmetic alone. 1 GB is 10⁹ bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from saemd.activations.disk.shards import disk_bytes
from saemd.config import Config
from saemd.lm.workers import worker_count
from saemd.planning.measure import device_of
from saemd.planning.model import LanguageModel
from saemd.planning.work import Comparison, Harvest, Job
from saemd.remote.urls import url_of
from saemd.runs import CHECKPOINT, WEIGHTS, run_dir
from saemd.sae.base import SAE, Progress, SAEConfig
from saemd.sae.registry import ARCHITECTURES
from saemd.stability.matching.hungarian import KEPT

FLOAT = 4  # bytes
TOKEN = 4  # bytes, of the text's tokens that `activations=online` keeps
SMALL_FILES = 12_000  # bytes of config.yaml, cfg.json and metrics.json
PROCESS = 800_000_000  # bytes of a process that has imported torch, transformers and Lightning
BYTES_PER_TOKEN = 4.5  # of English text, as SmolLM2's tokenizer cuts it
LOCAL_COPIES = "local copies"
BLOCK_ROWS = 1024  # of the cosines that the matching computes at once


@dataclass(frozen=True)
class Need:
    """Bytes that something takes; of those on disk, `here` are there already."""

    what: str
    bytes: int
    here: int = 0
    place: Path | None = None  # on disk

    @property
    def left(self) -> int:
        return max(self.bytes - self.here, 0)


def harvest_flops(harvest: Harvest) -> int:
    """Of the language model on the contexts that are still to be read, special tokens included."""
    length = harvest.config.activations.context_length
    return harvest.contexts * length * harvest.model.flops_per_token(harvest.config.layer, length)


def step_flops(job: Job) -> int:
    """Of one training step with whole matrices; a fast twin on a CPU computes less of them."""
    products = sae_products(job.config.sae)
    return int(products * 2 * job.harvest.d_in * job.d_sae * job.config.batch_size)


def training_flops(job: Job) -> int:
    """Of the steps left, and of the measure on held-out activations (two products) at the end."""
    if job.is_finished:
        return 0
    held_out = 2 * 2 * job.harvest.d_in * job.d_sae * job.config.activations.heldout_tokens
    return job.left * step_flops(job) + held_out


def sae_products(config: SAEConfig) -> float:
    """Products of a batch with a d_in × d_sae matrix in one training step, 2 · d_in · d_sae FLOPs a token each.

    Counted on a small SAE. JumpReLU has five: encode, decode, and the gradients of z, W_dec and W_enc, as x needs none;
    a bias that is subtracted from x takes a sixth.
    """
    key = repr(config)
    if key not in _counted:
        B, D, F = 8, 64, 256
        sae = ARCHITECTURES[config.name](D, F, config, target_l0=4)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            sae.W_dec.copy_(torch.randn(F, D, generator=generator))
            sae.W_enc.copy_(sae.W_dec.T)
        counter = FlopCounterMode(display=False)
        with counter, torch.enable_grad():
            sae.objective(torch.randn(B, D, generator=generator), Progress(0, 10)).total.backward()
        _counted[key] = counter.get_total_flops() / (2 * B * D * F)
    return _counted[key]


_counted: dict[str, float] = {}


def disk(harvests: list[Harvest], jobs: list[Job]) -> Iterator[Need]:
    """What lies on disk in the end. Of the text, only `activations=online` keeps its tokens."""
    seen = []
    for harvest in harvests:
        model, root = harvest.model, Path(harvest.config.cache_root)
        if model.config not in seen:
            seen.append(model.config)
            yield _model_files(model, root)
        if harvest.source == "online" and harvest.is_needed:
            text = TOKEN * (harvest.config.activations.tokens + harvest.config.activations.heldout_tokens)
            yield Need("tokenised text", text, 0, root / "activations")
        elif harvest.source == "cache" and (harvest.is_needed or harvest.done):
            what = f"activations of layer {harvest.config.layer}"
            here = disk_bytes(harvest.done, harvest.d_in)
            asked = disk_bytes(harvest.tokens, harvest.d_in) if harvest.is_needed else here
            if url := url_of(root):
                yield Need(f"{what}, in {url}", asked, here)
                yield _local_copies(harvest, asked)
            else:
                yield Need(what, asked, here, root / "activations")
    for run_root in sorted({job.config.run_root for job in jobs}):
        mine = [job for job in jobs if job.config.run_root == run_root]
        here = sum(_size(run_dir(job.config)) for job in mine)
        asked = sum(_size(run_dir(job.config)) if job.is_finished else run_bytes(job) for job in mine)
        what, url = f"{len(mine)} run directories" if len(mine) > 1 else "run directory", url_of(Path(run_root))
        yield Need(f"{what}, as in {url}" if url else what, asked, here, Path(run_root))


def _local_copies(harvest: Harvest, asked: int) -> Need:
    """What this machine keeps of a cache in a store."""
    most = (
        min(asked, int(1e9 * getattr(harvest.config.activations, "local_gigabytes", 0.0))) if harvest.is_needed else 0
    )
    here = sum(path.stat().st_size for path in harvest.folder.glob("*.bin")) if harvest.folder else 0
    return Need(f"{LOCAL_COPIES} of them", max(most, here), here, Path(harvest.config.cache_root))


def run_bytes(job: Job) -> int:
    """Of a finished run: `last.ckpt` (weights and Adam's moments); at the end and in each snapshot weights, figures."""
    sae = empty_sae(job.config, job.harvest.d_in, job.d_sae)
    parameters = FLOAT * sum(parameter.numel() for parameter in sae.parameters())
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in sae.buffers())
    last_fired, latents = 8 * job.d_sae, 13 * job.d_sae
    checkpoint = parameters * (1 + moments(job.config)) + buffers + last_fired
    return checkpoint + (1 + len(job.config.snapshots)) * (parameters + latents + SMALL_FILES)


def moments(config: Config) -> int:
    """Of Adam, for each parameter: without β₁ there is no first one."""
    beta1 = config.recipe.adam_beta1
    return 1 + bool(ARCHITECTURES[config.sae.name].adam_beta1 if beta1 is None else beta1)


def empty_sae(config: Config, d_in: int, d_sae: int) -> SAE:
    """The SAE without memory for its weights."""
    with torch.device("meta"):
        return ARCHITECTURES[config.sae.name](d_in, d_sae, config.sae, target_l0=config.l0)


def training_memory(job: Job) -> list[Need]:
    """On the device that trains: what has the SAE's shape, what has that of a batch's latents, and batches.

    Of a stack, whose size is known, for all its SAEs.
    """
    D, F, B = job.harvest.d_in, job.d_sae, job.config.batch_size
    S = job.config.together if isinstance(job.config.together, int) else 1
    copies = 1 + 1 + moments(job.config) + 1  # weights, gradients, Adam's moments, weights at the start
    sae = FLOAT * copies * 2 * D * F
    latents = FLOAT * 4 * B * F  # pre-activations, latents, their gradient, and the product that they come from
    batches = FLOAT * (getattr(job.config.activations, "prefetch_batches", 0) + 2) * B * D
    saes = f"{S} SAEs" if S > 1 else "SAE"
    return [
        Need(f"{saes} and Adam, {copies} copies of 2 × {D:,} × {F:,}", S * sae),
        Need("latents, batches", S * (latents + batches)),
    ]


def held_bytes(harvest: Harvest) -> int:
    """Of the activations that a source other than the cache on disk holds in memory."""
    config = harvest.config.activations
    tokens = {"memory": harvest.tokens, "online": getattr(config, "buffer_tokens", 0) + config.heldout_tokens}
    return disk_bytes(tokens.get(harvest.source, 0), harvest.d_in)


def harvest_memory(harvest: Harvest, bytes_each: int) -> list[Need]:
    """Of the layers that are loaded, `bytes_each` a weight, and of the shard that is being collected."""
    config, model = harvest.config, harvest.model
    shard = 3 * disk_bytes(config.activations.shard_tokens, model.d_model)
    a_token = 3 * model.mlp_width + 8 * model.d_model
    workers = 1 if harvest.source == "online" else worker_count(device_of(config))
    passes = workers * FLOAT * max(config.activations.lm_batch_tokens, config.activations.context_length) * a_token
    weights = bytes_each * model.parameters(config.layer + 1)
    return [Need(f"layers 0 to {config.layer} and embeddings", weights), Need("shard, passes", shard + passes)]


def comparison_memory(comparison: Comparison) -> list[Need]:
    """On the CPU: both SAEs' dictionaries, and what the matching keeps of its n × n cosines."""
    D, F = comparison.d_in, comparison.d_sae
    dictionaries = FLOAT * 6 * D * F  # encoder and decoder of both, and rows of the two that are being matched
    lists = 2 * 8 * F * min(2 * KEPT, F)  # of rows and columns: value and index
    block, rounded = FLOAT * min(BLOCK_ROWS, F) * F, 2 * D * F
    return [Need("dictionaries of two runs", dictionaries), Need("largest of n × n cosines", lists + block + rounded)]


def fallback_bytes(comparison: Comparison) -> int:
    """The n × n matrix of scipy, which matches only where no proof is found."""
    return 8 * comparison.d_sae**2


def _model_files(model: LanguageModel, cache_root: Path) -> Need:
    name, asked = f"model {model.config.name}", model.stored_bytes
    if model.has_weights:
        assert model.folder is not None
        size = sum(path.stat().st_size for path in model.folder.iterdir() if path.is_file())
        return Need(name, size, size, model.folder)
    place = cache_root / "models" if model.config.packages else _hub_cache()
    return Need(f"{name}, to be fetched", asked, 0, place)


def _hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _size(folder: Path) -> int:
    """Of a run's large files."""
    return sum((folder / name).stat().st_size for name in (WEIGHTS, CHECKPOINT) if (folder / name).is_file())
