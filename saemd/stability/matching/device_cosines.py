"""Upper bounds of all cosines, and the largest of them, computed on a GPU."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from saemd.stability.matching.candidates import FILLED, Candidates, Lists
from saemd.stability.matching.cosines import BLOCK_ROWS, Cosines, Dictionary

TF32 = 2.5e-3  # of a cosine, at most, where a GPU rounds both factors to TF32 (2 * 2^-10) and sums them in float32


class DeviceCosines(Cosines):
    """Bounds from products on `device`: `TF32` above them, so that they hold for any float32 precision set in torch.

    Only the lists of the largest come back to the CPU: 90 MB at 18,432 latents. The pairs that the matching uses are
    computed on the CPU, so the result does not depend on the device.
    """

    exact = False

    def __init__(
        self, a: Dictionary, b: Dictionary, pool: ThreadPoolExecutor, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(a, b, pool)
        self._a_FD, self._b_FD = (part.rows.to(device) * part.factors.to(device)[:, None] for part in (a, b))

    def candidates(self, keep: int) -> Candidates:
        """The largest bounds of all rows and columns: 1.45 · `keep` a line, as many as `gather` holds in the mean."""
        rows, columns = _lists(self._a_FD, self._b_FD, keep), _lists(self._b_FD, self._a_FD, keep)
        diagonal_F = (self._a_FD * self._b_FD).sum(dim=1) + TF32
        return Candidates(rows, columns, diagonal_F.cpu().numpy(), self._pool)

    def allowance(self, row_E: np.ndarray, column_E: np.ndarray) -> np.ndarray:
        return np.full(len(row_E), TF32, dtype=np.float32)


def bytes_needed(a: Dictionary) -> int:
    """Of the GPU's memory, about, for dictionaries of this size: both twice, and blocks with their largest entries."""
    n_latents, d_in = a.rows.shape
    return 4 * (4 * n_latents * d_in + 8 * min(BLOCK_ROWS, n_latents) * n_latents)


def _lists(rows_FD: Tensor, others_FD: Tensor, keep: int) -> Lists:
    """The largest bounds of every row, and the next one as its floor."""
    n_latents = len(rows_FD)
    size = min(round(FILLED * keep), n_latents)
    value_FW, index_FW = np.empty((n_latents, size), np.float32), np.empty((n_latents, size), np.int32)
    floor_F = np.full(n_latents, -np.inf, np.float32)
    for first in range(0, n_latents, BLOCK_ROWS):
        part = slice(first, first + BLOCK_ROWS)
        value_BK, index_BK = (rows_FD[part] @ others_FD.T).topk(min(size + 1, n_latents))
        value_FW[part] = (value_BK[:, :size] + TF32).cpu().numpy()
        index_FW[part] = index_BK[:, :size].int().cpu().numpy()
        if size < n_latents:
            floor_F[part] = (value_BK[:, size] + TF32).cpu().numpy()
    return Lists(keep, value_FW, index_FW, np.full(n_latents, size, np.int64), floor_F)
