"""Jacobian determinant of a whole map on a grid."""

from __future__ import annotations

import numpy as np

from carl_cli.geometry import Array, Grid
from carl_cli.transforms.aligned import AlignedField, aligned_field
from carl_cli.transforms.core import Transform
from carl_cli.transforms.interpolation import Floats
from carl_cli.transforms.matrices import determinant, determinant_of_rows
from carl_cli.transforms.sampling import slab_grid, slabs

# The nine derivatives of a slab stay in a last-level cache.
CACHED_POINTS = 1 << 18


def jacobian_determinant(transform: Transform, grid: Grid) -> Floats:
    """det dT/dx at each voxel centre: (z, y, x) float32, no unit, 1 = volume kept.

    Central differences between neighbouring voxels, one-sided in the outermost layer; an
    axis of one voxel is differenced by evaluating T half a voxel to each side.
    """
    result = np.empty(grid.shape_zyx, np.float32)
    aligned = aligned_field(transform, grid)
    if aligned is not None:
        for part in slabs(grid, CACHED_POINTS):
            result[part] = _aligned_determinant(aligned, grid, part)
        return result
    for part in slabs(grid):
        start = max(part.start - 1, 0)
        halo = slice(start, min(part.stop + 1, grid.shape_zyx[0]))
        block = _block_determinant(transform, slab_grid(grid, halo))
        result[part] = block[part.start - start : part.stop - start]
    return result


def _aligned_determinant(field: AlignedField, grid: Grid, part: slice) -> Floats:
    """(slab, y, x): rows are components of the mapped point, columns index axes, x first."""
    axes = range(grid.dimension)
    by_index = [
        [field.slope_mm(c, grid.dimension - 1 - k, part) + field.linear[c, k] for k in axes]
        for c in axes
    ]
    scale = np.linalg.det(field.outer) * np.linalg.det(grid.lps_to_index[:-1, :-1])
    return determinant_of_rows(by_index) * scale


def _block_determinant(transform: Transform, grid: Grid) -> Floats:
    mapped = transform(grid.points_mm())
    by_index = np.stack(
        [_index_derivative(transform, grid, mapped, axis) for axis in range(grid.dimension)],
        axis=-1,
    )
    return determinant(by_index) * np.linalg.det(grid.lps_to_index[:-1, :-1])


def _index_derivative(transform: Transform, grid: Grid, mapped: Array, axis_xyz: int) -> Array:
    """(z, y, x, D) derivative of the mapped points by voxel index along one axis."""
    if grid.size_xyz[axis_xyz] > 1:
        return np.gradient(mapped, axis=grid.dimension - 1 - axis_xyz)
    step = grid.index_to_lps[:-1, axis_xyz] / 2
    points = grid.points_mm()
    return transform(points + step) - transform(points - step)
