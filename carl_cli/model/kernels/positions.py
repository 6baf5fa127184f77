"""Voxel positions of a grid of keys, generated where they are used.

Positions are voxel indices counted from the middle of the grid: sums of them in float32 cancel
least there. Keys are numbered as a flattened (z, y, x) or (y, x) array.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Shape = Sequence[int]


def count(shape: Shape) -> int:
    return math.prod(shape)


def middle(shape: Shape, like: Tensor) -> Tensor:
    """(D,) index of the grid's middle, in halves of a voxel."""
    return torch.tensor([(n - 1) / 2 for n in shape], dtype=like.dtype, device=like.device)


def positions(shape: Shape, like: Tensor) -> Tensor:
    """(D, M) centred voxel indices of all keys, in array-axis order."""
    axes = [torch.arange(n, dtype=like.dtype, device=like.device) - (n - 1) / 2 for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)
