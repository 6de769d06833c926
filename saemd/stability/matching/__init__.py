"""Matching behind one door: `match` pairs the rows of two dictionaries one to one, and proves that no total is larger.

Inside, from the door down: `hungarian` holds what callers see, `optimum` the loop of matching and proof. `candidates`
are the largest cosines of each row and column; `auction` and `paths` match on these; `certificate` and `pricing` prove
the result on all pairs. `kernels` chooses who computes the numbers: `cosines` in float32, `byte_cosines` (after a
`rotation`) on CPUs that multiply bytes, `device_cosines` on a GPU.

Suffixes of arrays: D d_in, F latents, E edges (pairs of the matrix), R some rows, B rows of one block, C one chunk,
W width of a list with its buffer.
"""

from saemd.stability.matching.hungarian import Match, match, random_floor

__all__ = ["Match", "match", "random_floor"]
