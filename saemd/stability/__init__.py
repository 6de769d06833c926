"""Do the features of an SAE return under another seed? Matching of latents and comparison of finished runs.

    python -m saemd.stability run_root=runs

`match` pairs the rows of two dictionaries, `compare` pairs two SAEs' latents by encoder and by decoder,
`compare_root` compares every pair of sibling runs below a run root, `compare_run` compares one run that has just
finished with its siblings. `saemd.report` draws what is recorded here.
"""

from saemd.stability.comparison import Comparison, compare
from saemd.stability.matching import Match, match
from saemd.stability.root import compare_root, compare_run

__all__ = ["Comparison", "Match", "compare", "compare_root", "compare_run", "match"]
