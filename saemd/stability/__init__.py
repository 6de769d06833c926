"""Do the features of an SAE return under another seed? Matching of latents and comparison of finished runs.

`saemd.report` draws what is recorded here.
"""

from saemd.stability.comparison import Comparison, compare
from saemd.stability.matching import Match, match
from saemd.stability.root import compare_root, compare_run

__all__ = ["Comparison", "Match", "compare", "compare_root", "compare_run", "match"]
