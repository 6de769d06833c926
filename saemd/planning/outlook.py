"""The plan in one line, which `saemd train` prints before it starts. Nothing is measured."""

from __future__ import annotations

from collections.abc import Sequence

from saemd.activations.disk.shards import disk_bytes
from saemd.activations.harvest.write import human
from saemd.config import Config
from saemd.planning import costs
from saemd.planning.work import find_work


def outlook(configs: Sequence[Config], is_sweep: bool) -> str:
    """What these checked jobs will harvest, train, compare and write."""
    work = find_work(configs, is_sweep)
    parts = []
    for harvest in work.harvests:
        if harvest.left:
            size = f" ({human(disk_bytes(harvest.left, harvest.d_in))})" if harvest.source == "cache" else ""
            parts.append(f"harvest {harvest.left:,} tokens of layer {harvest.config.layer}{size}")
    count = f"{len(work.todo)} of {len(work.jobs)} jobs" if len(work.jobs) > 1 else "1 job"
    tokens = sum(job.tokens_left for job in work.todo)
    size = human(sum(costs.run_bytes(job) for job in work.todo))
    parts.append(f"train {count} ({tokens:,} tokens, {size})")
    if pairs := sum(comparison.pairs for comparison in work.comparisons):
        parts.append(f"compare {pairs} {'pair' if pairs == 1 else 'pairs'} of seeds")
    return f"plan: {', '.join(parts)}; saemd plan with the same words says more"
