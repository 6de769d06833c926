"""The optimizer's passes over a matrix's rows on a CPU, compiled by numba at their first call.

All arrays are C-contiguous float32. Shape suffixes: N rows, D their width.
"""

import numpy as np
from numba import njit, prange


@njit(parallel=True, fastmath=True, cache=True)
def adam_rows(W_ND, grad_ND, square_ND, lr, clip, beta2, eps, correction, project, along_N):
    """Adam without first moment on every row, the gradient times `clip`; `project`: rows stay of unit norm.

    `correction` = 1/√(1 − β₂ᵗ); `along_N` is of `gradient_norms`. `project`: the row is divided by its norm at the end.
    """
    for r in prange(W_ND.shape[0]):
        W_D, grad_D, v_D = W_ND[r], grad_ND[r], square_ND[r]
        along, norm = along_N[r], np.float32(0)
        for d in range(W_D.shape[0]):
            g = clip * (grad_D[d] - along * W_D[d])
            v = beta2 * v_D[d] + (np.float32(1) - beta2) * g * g
            v_D[d] = v
            w = W_D[d] - lr * g / (np.sqrt(v) * correction + eps)
            W_D[d] = w
            norm += w * w
        if project:
            inverse = np.float32(1) / (np.sqrt(norm) + np.float32(1.1920929e-07))
            for d in range(W_D.shape[0]):
                W_D[d] *= inverse


@njit(parallel=True, fastmath=True, cache=True)
def gradient_norms(W_ND, grad_ND, project, along_N, square_N):
    """Each row's squared gradient norm; `project`: without the part along the row, whose factor goes to `along_N`.

    With w = W/(‖W‖ + 1e-6), as `dictionary_learning` has it, what stays is g − ⟨g, w⟩w = g − along · W.
    """
    for r in prange(W_ND.shape[0]):
        W_D, grad_D = W_ND[r], grad_ND[r]
        square, along, norm = np.float32(0), np.float32(0), np.float32(0)
        for d in range(W_D.shape[0]):
            g, w = grad_D[d], W_D[d]
            square += g * g
            along += g * w
            norm += w * w
        along_N[r] = np.float32(0)
        if project:
            length = np.sqrt(norm) + np.float32(1e-6)
            factor = along / (length * length)
            along_N[r] = factor
            square += factor * factor * norm - np.float32(2) * factor * along
        square_N[r] = max(square, np.float32(0))
