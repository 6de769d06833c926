"""Several training jobs as one stack of SAEs, each with its own run directory as if it had been trained alone."""

import gc
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from lightning.pytorch.loggers import Logger

from saemd.activations.datamodule import ActivationDataModule
from saemd.activations.joined import JoinedHeldout, JoinedStream
from saemd.config import Config
from saemd.errors import UserError
from saemd.logging import log_summary
from saemd.runs import CHECKPOINT, HeldError, read_metrics, run_name
from saemd.training.callbacks import AtEnd, SaveRun
from saemd.training.checkpoints import step_of
from saemd.training.fit import fit
from saemd.training.resampling import Resampling
from saemd.training.run import opened, prepare
from saemd.training.snapshots import Snapshots
from saemd.training.stack.checkpoints import StackCheckpoints
from saemd.training.stack.module import StackTraining

Outcome = dict[str, Any] | UserError  # metrics.json's content, or why there is none


def train_together(
    configs: Sequence[Config], at_end: Callable[[Config], Sequence[AtEnd]] = lambda config: ()
) -> list[Outcome]:
    """Train, measure and save the SAEs of unfinished jobs that `saemd.training.stack.grouping` puts together.

    `at_end` gives what acts on each run after its files are written. A job that fails does not stop the others.
    """
    first, jobs = configs[0], [prepare(config) for config in configs]
    sources, ranks = [job.source for job in jobs], jobs[0].ranks
    orders = [config.data_seed for config in configs]
    stream = JoinedStream(sources, first.batch_size, first.tokens, orders, ranks.rank, ranks.world)
    data = ActivationDataModule(stream, JoinedHeldout(sources, first.batch_size))
    folders = [job.folder for job in jobs]
    with ExitStack() as directories:
        failed: dict[int, UserError] = {}
        loggers = [directories.enter_context(opened(job, lambda i=i: i in failed)) for i, job in enumerate(jobs)]
        steps = {step_of(job.folder, job.module) for job in jobs}
        if len(steps) > 1:  # since the stack was put together
            raise HeldError(
                f"{folders[0]}: another process has trained a part of this stack on; give the command again"
            )
        module = StackTraining(
            [job.module for job in jobs], [source.fingerprint for source in sources], loggers, failed
        )
        acts = EachAtEnd([[SaveRun(job.config, job.folder, len(jobs)), *at_end(job.config)] for job in jobs])
        name = f"{len(jobs)} SAEs together" if jobs[1:] else run_name(first)
        fit(
            module, data, first, name, folders[0] / CHECKPOINT, steps != {0}, [acts],
            StackCheckpoints(folders, failed), before_checkpoint=[Snapshots(configs)], ranks=ranks,
            everywhere=[Resampling(configs)],
        )  # fmt: skip
        if ranks.rank:
            return []
        outcomes: list[Outcome] = []
        for i, (folder, logger) in enumerate(zip(folders, loggers, strict=True)):
            if i in failed:
                outcomes.append(failed[i])
                continue
            outcomes.append(metrics := read_metrics(folder))
            log_summary(logger, metrics)
    del jobs, sources, module, stream, data, acts
    gc.collect()
    return outcomes


class EachAtEnd(AtEnd):
    """Lets each member's own callbacks act on it; a member that one of them refuses has failed."""

    def __init__(self, callbacks: Sequence[Sequence[AtEnd]]) -> None:
        self.callbacks = callbacks

    def act(self, module: Any, steps: int, loggers: Sequence[Logger]) -> None:
        for i, member in module.running():
            try:
                for callback in self.callbacks[i]:
                    callback.act(member, steps, [logger] if (logger := module.loggers_of[i]) else [])
            except UserError as error:
                module.failed[i] = error
