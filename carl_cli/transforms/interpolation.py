"""Multilinear interpolation of a vector field at continuous voxel indices.

Shapes: values (z, y, x, C) or (y, x, C); index (N, D) in the order (x, y[, z]).
Beyond the outermost voxel centres the index is clamped, so the border value goes on
and the interpolant is continuous everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

# Points per round: the eight corner vectors of one round stay near the cache.
CHUNK = 1 << 15


def chunks(count: int) -> Iterator[slice]:
    for start in range(0, count, CHUNK):
        yield slice(start, min(start + CHUNK, count))


def interpolate(values: Floats, index: Floats) -> Floats:
    """(N, C) values at the indices, in the precision of `values`. One chunk at a time."""
    corners, fractions, _ = _cell(values, index)
    for fraction in fractions:
        corners = corners[0] + fraction * (corners[1] - corners[0])
    return corners.reshape(len(index), -1)


def interpolate_with_gradient(values: Floats, index: Floats) -> tuple[Floats, Floats]:
    """Values (N, C) and derivatives by index (N, C, D), exact for the interpolant.

    Outside the voxel centres the derivative along the clamped axes is zero.
    """
    corners, fractions, inside = _cell(values, index)
    slopes: list[Floats] = []
    for fraction in fractions:
        slopes = [slope[0] + fraction * (slope[1] - slope[0]) for slope in slopes]
        slopes.append(corners[1] - corners[0])
        corners = corners[0] + fraction * slopes[-1]
    # Axes were reduced slowest first (z, y, x); points are x first.
    gradient = np.stack([slope.reshape(len(index), -1) for slope in slopes[::-1]], axis=-1)
    return corners.reshape(len(index), -1), gradient * inside[:, None, :]


def _cell(values: Floats, index: Floats) -> tuple[Floats, list[Floats], NDArray[np.bool_]]:
    """The 2**D corner vectors (2, ..., 2, N*C), the position in the cell per array axis
    repeated for each component, and whether the index lies within the voxel centres."""
    *shape_zyx, components = values.shape
    last = np.array(shape_zyx[::-1]) - 1
    clamped = np.clip(index, 0, last)
    low = np.minimum(clamped.astype(np.int64), np.maximum(last - 1, 0))
    fraction = np.repeat((clamped - low).astype(values.dtype), components, axis=0)
    strides = np.cumprod([1, *shape_zyx[:0:-1]])
    steps = np.where(last > 0, strides, 0)
    corners = values.reshape(-1, components)[low @ strides + _corner_offsets(steps)]
    corners = corners.reshape((2,) * len(last) + (-1,))
    inside = (index >= 0) & (index <= last)
    return corners, list(np.ascontiguousarray(fraction.T[::-1])), inside


def _corner_offsets(steps: NDArray[np.int64]) -> NDArray[np.int64]:
    """(2**D, 1) flat offsets of a cell's corners; the slowest array axis varies slowest."""
    offsets = np.zeros(1, np.int64)
    for step in steps:
        offsets = np.concatenate([offsets, offsets + step])
    return offsets[:, None]
