"""A rotation after which no axis of a dictionary is much stronger than the others.

Activations have a few strong axes, and bytes with one scale a row round the many weak axes too coarsely beside them. A
rotation changes no cosine. This one lays the axes out as a grid and multiplies each side of the grid by a discrete
Hartley transform with random signs, so that every new axis takes a small part of every old one.
"""

import math

import numpy as np
import torch
from torch import Tensor

MOVED = 2e-5  # a rotation in float32 moves a cosine by this at most


def rotated(rows_RD: Tensor) -> Tensor:
    """The rows, float32 [R, D], in the other basis: [R, D'] with D <= D' < D + sqrt(D) + 1; the same for every call."""
    d_in = rows_RD.shape[1]
    width = max(1, math.ceil(math.sqrt(d_in)))
    height = max(1, math.ceil(d_in / width))
    padded_RD = torch.nn.functional.pad(rows_RD, (0, height * width - d_in)) if height * width > d_in else rows_RD
    grid_RHW = padded_RD.view(-1, height, width)
    return (_hartley(height).T @ (grid_RHW @ _hartley(width))).view(len(rows_RD), -1)


def _hartley(size: int) -> Tensor:
    """A discrete Hartley transform whose rows have random signs, orthogonal, float32 [size, size]."""
    order = np.arange(size)
    angle = 2 * np.pi / size * (np.outer(order, order) % size)
    sign = np.random.default_rng(size).choice([-1, 1], size)
    return torch.from_numpy(sign[:, None] * (np.cos(angle) + np.sin(angle)) / math.sqrt(size)).float()
