"""The encoder's product on a CPU and its error bounds, from bfloat16 factors where the CPU is faster with them.

Shape suffixes: B tokens in a batch, D d_in, F latents, N rows of either.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from saemd.sae import products
from saemd.sae.jumprelu_fast import kernels

OUTPUT_ERROR = 2**-8  # of a number rounded to bfloat16's 8 bits, relative to itself
FLOAT32_SUMS = np.float32(1.02)  # room for float32's rounding of the sums, a fiftieth of bfloat16's of the factors
TINY = np.float32(1e-30)


class Encoded(NamedTuple):
    """`times` x W_encᵀ as this CPU computes it: an exact product p was computed to within output·|p| + slack·norm.

    `is_exact`: but for float32's own rounding, so that the bounds are zero.
    """

    values: np.ndarray  # [B, F]: float32, or bfloat16's bits (uint16)
    times: float
    output: float  # largest error by rounding the product itself, relative to it
    slack: np.ndarray  # [B]
    norm: np.ndarray  # [F]
    is_exact: bool = False

    @classmethod
    def exact(cls, values_BF: np.ndarray) -> Encoded:
        B, F = values_BF.shape
        return cls(values_BF, 1.0, 0.0, np.zeros(B, np.float32), np.zeros(F, np.float32), True)


class Rounded(NamedTuple):
    """Rows rounded to bfloat16, their norms before, and the norms of what that took off."""

    rows: Tensor  # bfloat16 [N, D]
    norm: np.ndarray  # [N]
    error: np.ndarray  # [N]


def bits_of(rows: Tensor) -> np.ndarray:
    """A bfloat16 tensor's own memory (uint16)."""
    return rows.view(dtype=torch.uint16).numpy()


def slack(x: Rounded, W: Rounded, output: float) -> np.ndarray:
    """What rounded factors leave unknown of each token's products, over the latents' norms [B].

    From x = x̂ + δx and w = ŵ + δw: |x·w − x̂·ŵ| ≤ ‖δx‖‖w‖ + ‖x̂‖‖δw‖ ≤ (‖δx‖ + ‖x̂‖ max ‖δw‖/‖w‖) ‖w‖.
    """
    largest = np.max(W.error / np.maximum(W.norm, TINY))
    return (x.error + (x.norm + x.error) * largest) * np.float32(1 + output) * FLOAT32_SUMS


class Workspace:
    """Memory for factors and products, kept between calls: fresh pages cost as much as rounding."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def product(self, a_NK: Tensor, b_KM: Tensor) -> Tensor:
        """a b, factors and product rounded to bfloat16; overwritten by the next call."""
        out_NM = self.empty("product", len(a_NK), b_KM.shape[1])
        return torch.mm(self._rounded("a", a_NK), self._rounded("b", b_KM), out=out_NM)

    def _rounded(self, name: str, matrix: Tensor) -> Tensor:
        """The matrix in bfloat16, laid out as it is (by rows or by columns)."""
        if not matrix.is_contiguous():
            return self._rounded(name, matrix.T).T
        return self.empty(name, len(matrix), matrix.shape[1]).copy_(matrix)

    def measured(self, name: str, matrix_ND: Tensor, times: float = 1.0) -> Rounded:
        """Rows times a number, in bfloat16, and how far rounding moved each."""
        bits_ND = self.empty(name, len(matrix_ND), matrix_ND.shape[1])
        norm_N, error_N = np.empty(len(matrix_ND), np.float32), np.empty(len(matrix_ND), np.float32)
        rows_ND = matrix_ND.detach().contiguous().numpy()
        kernels.round_rows(rows_ND, np.float32(times), bits_of(bits_ND), norm_N, error_N)
        return Rounded(bits_ND, norm_N, error_N)

    def empty(self, name: str, rows: int, columns: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        size = rows * columns
        if name not in self._kept or len(self._kept[name]) < size:
            self._kept[name] = torch.empty(size, dtype=dtype)
        return self._kept[name][:size].view(rows, columns)


def encode(x_BD: Tensor, W_enc_FD: Tensor, scale: float, space: Workspace) -> Encoded:
    """x W_encᵀ by the kernel that is fastest on this CPU.

    Activations are stored in bfloat16 and divided by `scale`: multiplied by it, rounding takes nothing off them, and
    half as many pairs are so near to a threshold that they must be computed again.
    The kernel is chosen by the CPU's capabilities, not by a clock: a run must have the same bits on a busy machine.
    """
    if products.halves_are_faster():
        x, W = space.measured("a", x_BD, scale), space.measured("b", W_enc_FD)
        product_BF = torch.mm(x.rows, W.rows.T, out=space.empty("product", len(x.rows), len(W.rows)))
        return Encoded(bits_of(product_BF), scale, OUTPUT_ERROR, slack(x, W, OUTPUT_ERROR), W.norm)
    out_BF = space.empty("encoded", len(x_BD), len(W_enc_FD), torch.float32)
    fastest(x_BD, W_enc_FD.T, out_BF, space)
    if products.is_exact():
        return Encoded.exact(out_BF.numpy())
    x, W = space.measured("a", x_BD), space.measured("b", W_enc_FD)
    return Encoded(out_BF.numpy(), 1.0, 0.0, slack(x, W, 0.0), W.norm)


def fastest(a_NK: Tensor, b_KM: Tensor, out_NM: Tensor, space: Workspace) -> None:
    """out = a b, float32; from factors rounded to bfloat16 where this CPU is faster with them."""
    if products.halves_are_faster():
        out_NM.copy_(space.product(a_NK, b_KM))
        return
    with products.onednn():
        torch.mm(a_NK, b_KM, out=out_NM)
