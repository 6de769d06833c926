"""Do the features of an SAE return under another seed? Matching, comparison of finished runs, figures, report.

    python -m saemd.stability run_root=runs

`match` pairs the rows of two dictionaries, `compare` pairs two SAEs' latents by encoder and by decoder,
`compare_root` compares every pair of sibling runs below a run root and writes the report, `compare_run` adds one
run that has just finished. Nothing here imports matplotlib before a figure is drawn.
"""

from saemd.stability.comparison import Comparison, compare
from saemd.stability.matching import Match, match
from saemd.stability.root import compare_root, compare_run
from saemd.stability.table import print_table

__all__ = ["Comparison", "Match", "compare", "compare_root", "compare_run", "match", "print_table"]
