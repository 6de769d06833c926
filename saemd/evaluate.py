"""Measure the quality of finished SAEs: what their reconstructions cost the language model, and other scores.

    saemd evaluate                                   # the core measures of every finished run below runs
    saemd evaluate run_root=runs/big scores=null     # every score (scores=a: one; scores=a,b: several)
    saemd evaluate run_root=runs core.tokens=50_000  # a score's own settings

The same command again measures only scores that are missing, failed, or have other settings. Results: one file for each
run and score, <run>/quality/<score>.json; for all runs quality.json, spread.json, figure3.png and figure4.png in
<run_root>/quality/; and a section of <run_root>/stability/report.html.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saemd.cli import entry

if TYPE_CHECKING:
    from saemd.quality.evaluation import Evaluation


def main(arguments: list[str]) -> int:
    """Exit code 0; 1 where a score failed or a run cannot be read."""
    if {"-h", "--help"} & set(arguments):
        from saemd.quality.scores import SCORES

        print(__doc__)
        print("Scores:", *(f"    {score.name:<20} {score.title}: {score.needs}" for score in SCORES.values()), sep="\n")
        return 0
    from saemd.quality.config import compose_evaluation
    from saemd.quality.evaluation import evaluate_root

    config = compose_evaluation(arguments)
    evaluation = evaluate_root(config)
    conclude(config, evaluation)
    return int(bool(evaluation.failures or evaluation.broken))


def conclude(config: Any, evaluation: Evaluation) -> None:
    """Draw the figures, print the table, renew the report, log to wandb, and print where everything is."""
    from saemd.logging import log_quality
    from saemd.quality.spread import summary
    from saemd.report.page import write_report
    from saemd.report.score_figures import draw_figures
    from saemd.report.score_table import print_table
    from saemd.stability.root import compare_again

    folder, run_root = evaluation.folder, Path(config.run_root)
    draw_figures(folder, evaluation.records)
    print_table(evaluation.records, summary(evaluation.records))
    comparison = compare_again(run_root)
    write_report(comparison)
    log_quality(config.logger, run_root, group=run_root.resolve().name)
    for line in evaluation.broken:
        print(f"left out: {line}")
    print(f"scores   {folder / 'quality.json'}")
    print(f"figures  {folder / 'figure3.png'}, {folder / 'figure4.png'}")
    print(f"report   {comparison.folder / 'report.html'}")


if __name__ == "__main__":
    entry(main)
    sys.exit()
