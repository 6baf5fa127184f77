"""Jacobian of a whole map on a grid, and its determinant.

A displacement field on a grid whose axes run along the field's own.

Linear interpolation, and differences of what it gives, are then one small matrix an axis: a
derivative on millions of voxels is three matrix products instead of millions of look-ups.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from carl_cli.geometry import Array, Grid
from carl_cli.transforms.core import (
    AffineTransform,
    DisplacementField,
    Transform,
    identity,
)
from carl_cli.transforms.interpolation import Floats
from carl_cli.transforms.matrices import determinant, determinant_of_rows
from carl_cli.transforms.sampling import check_dimension, slab_grid, slabs

# The nine derivatives of a slab stay in a last-level cache.
CACHED_POINTS = 1 << 18


def jacobian_determinant(transform: Transform, grid: Grid) -> Floats:
    """det dT/dx at each voxel centre: (z, y, x) float32, no unit, 1 = volume kept.

    Central differences between neighbouring voxels, one-sided in the outermost layer; an
    axis of one voxel is differenced by evaluating T half a voxel to each side.
    """
    result = np.empty(grid.shape_zyx, np.float32)
    for part, values in determinant_slabs(transform, grid):
        result[part] = values
    return result


def determinant_slabs(transform: Transform, grid: Grid) -> Iterator[tuple[slice, Floats]]:
    """`jacobian_determinant` slab by slab: ranges of the first array axis, and their values."""
    check_dimension(transform, grid)
    aligned = aligned_field(transform, grid)
    if aligned is not None:
        for part in slabs(grid, CACHED_POINTS):
            yield part, _aligned_determinant(aligned, grid, part)
        return
    scale = np.linalg.det(grid.lps_to_index[:-1, :-1])
    for part in slabs(grid):
        yield part, determinant(_by_index(transform, grid, part)) * scale


def jacobian_matrix(transform: Transform, grid: Grid, part: slice) -> Array:
    """dT/dx at the voxel centres of a slab of `grid`, differenced as for its determinant.

    part: of the first array axis. (slab, y, x, D, D): rows are components of the mapped point,
    columns those of the point, both LPS, x first; no unit.
    """
    return np.asarray(_by_index(transform, grid, part) @ grid.lps_to_index[:-1, :-1])


def _by_index(transform: Transform, grid: Grid, part: slice) -> Array:
    """(slab, y, x, D, D) mm: rows are components of the mapped point, columns index axes."""
    first, last, _ = part.indices(grid.shape_zyx[0])
    start = max(first - 1, 0)
    halo = slice(start, min(last + 1, grid.shape_zyx[0]))
    block = _block_by_index(transform, slab_grid(grid, halo))
    return block[first - start : last - start]


def _aligned_determinant(field: AlignedField, grid: Grid, part: slice) -> Floats:
    """(slab, y, x): rows are components of the mapped point, columns index axes, x first."""
    axes = range(grid.dimension)
    by_index = [
        [field.slope_mm(c, grid.dimension - 1 - k, part) + field.linear[c, k] for k in axes]
        for c in axes
    ]
    scale = np.linalg.det(field.outer) * np.linalg.det(grid.lps_to_index[:-1, :-1])
    return determinant_of_rows(by_index) * scale


def _block_by_index(transform: Transform, grid: Grid) -> Array:
    mapped = transform(grid.points_mm())
    return np.stack(
        [_index_derivative(transform, grid, mapped, axis) for axis in range(grid.dimension)],
        axis=-1,
    )


def _index_derivative(transform: Transform, grid: Grid, mapped: Array, axis_xyz: int) -> Array:
    """(z, y, x, D) derivative of the mapped points by voxel index along one axis."""
    if grid.size_xyz[axis_xyz] > 1:
        return np.gradient(mapped, axis=grid.dimension - 1 - axis_xyz)
    step = grid.index_to_lps[:-1, axis_xyz] / 2
    points = grid.points_mm()
    return transform(points + step) - transform(points - step)


# How far, in voxels of the field, an axis may stray from the field's over the whole grid.
STRAY_VOXELS = 1e-4
ROWS = 64  # of a matrix with few entries a row that are multiplied at once


@dataclass(frozen=True, eq=False)
class AlignedField:
    """outer(y + u(y)) with y = linear · index + offset, on a grid of voxels.

    displacement_mm: (D, z, y, x), components x first, axes in the order and the direction of
    the grid's. For each array axis, `weights` (n, m) takes the field's m samples to the grid's
    n voxels and `slopes` (n, m) to their differences by voxel index.
    """

    outer: Array
    linear: Array
    displacement_mm: Floats
    weights: tuple[Array, ...]
    slopes: tuple[Array, ...]

    def slope_mm(self, component: int, array_axis: int, part: slice) -> Floats:
        """(slab, y, x) du/di of one component along one array axis, for a slab of the first."""
        result = self.displacement_mm[component]
        for axis in range(result.ndim):
            matrix = (self.slopes if axis == array_axis else self.weights)[axis]
            result = _product_along(matrix[part] if axis == 0 else matrix, result, axis)
        return result


def aligned_field(transform: Transform, grid: Grid) -> AlignedField | None:
    """The transform on the grid, if it is one field between affine maps and the axes agree."""
    parts = transform.parts
    fields = [k for k, part in enumerate(parts) if isinstance(part, DisplacementField)]
    if len(fields) != 1:
        return None
    place = fields[0]
    outer, inner = (_product(p, grid.dimension) for p in (parts[:place], parts[place + 1 :]))
    field = parts[place]
    if outer is None or inner is None or not isinstance(field, DisplacementField):
        return None
    to_mm = inner @ grid.index_to_lps
    axes = _axes(field.grid.lps_to_index @ to_mm, grid)
    if axes is None:
        return None
    # Components first, array axes in the order of the grid's.
    order = [field.grid.dimension - 1 - axis for axis, _, _ in axes[::-1]]
    values = np.ascontiguousarray(field.displacement_mm.transpose(-1, *order))
    matrices = [
        _matrices(voxels, start, step, samples)
        for voxels, (_, start, step), samples in zip(
            grid.shape_zyx, axes[::-1], values.shape[1:], strict=True
        )
    ]
    weights, slopes = zip(*matrices, strict=True)
    return AlignedField(outer[:-1, :-1], to_mm[:-1, :-1], values, weights, slopes)


def _product(parts: tuple[Transform, ...], dimension: int) -> Array | None:
    """(D+1, D+1) of affine parts, the last one acting first; None if one is not affine."""
    result = identity(dimension).homogeneous
    for part in parts:
        if not isinstance(part, AffineTransform):
            return None
        result = result @ part.homogeneous
    return result


def _axes(index_map: Array, grid: Grid) -> list[tuple[int, float, float]] | None:
    """For each axis x, y, z of the grid: the field's axis, and the field's index on it at voxel 0
    and the step of it from voxel to voxel. None if an axis runs along none of the field's."""
    linear, offset = index_map[:-1, :-1], index_map[:-1, -1]
    columns = np.arange(grid.dimension)
    partners = np.abs(linear).argmax(axis=0)
    stray = np.abs(linear) * np.array(grid.size_xyz)
    stray[partners, columns] = 0
    if sorted(partners) != list(columns) or stray.max() > STRAY_VOXELS:
        return None
    return [(int(p), float(offset[p]), float(linear[p, k])) for k, p in enumerate(partners)]


def _matrices(voxels: int, start: float, step: float, samples: int) -> tuple[Array, Array]:
    """(voxels, samples) interpolation at index start + step · voxel, and central differences of
    it: one-sided at the ends, over its own extent for a single voxel."""
    weights = _interpolation(start + step * np.arange(voxels), samples)
    if voxels > 1:
        return weights, np.gradient(weights, axis=0)
    before, after = _interpolation(start + step * np.array([-0.5, 0.5]), samples)
    return weights, (after - before)[None]


def _interpolation(index: Floats, samples: int) -> Array:
    """(n, samples) linear interpolation at continuous indices, clamped to the samples."""
    clamped = np.clip(index, 0, samples - 1)
    low = np.minimum(clamped.astype(int), max(samples - 2, 0))
    weights = np.zeros((len(index), samples))
    rows = np.arange(len(index))
    weights[rows, low] = 1 - (clamped - low)
    weights[rows, np.minimum(low + 1, samples - 1)] += clamped - low
    return weights


def _product_along(matrix: Array, values: Floats, axis: int) -> Floats:
    """values with one axis of m replaced by n, matrix (n, m) having few entries in each row."""
    shape = values.shape
    blocks = values.reshape(math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))
    parts = []
    for start in range(0, len(matrix), ROWS):
        rows = matrix[start : start + ROWS]
        used = np.flatnonzero(rows.any(axis=0))
        first, last = (used[0], used[-1] + 1) if len(used) else (0, 1)
        rows = np.ascontiguousarray(rows[:, first:last], values.dtype)
        some = blocks[:, first:last]
        is_last = blocks.shape[2] == 1
        parts.append((some[..., 0] @ rows.T)[..., None] if is_last else rows @ some)
    return np.concatenate(parts, axis=1).reshape(*shape[:axis], -1, *shape[axis + 1 :])
