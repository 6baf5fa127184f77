"""Transforms sampled on grids: dense fields, their extension, the network's result."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from carl_cli.errors import InputError
from carl_cli.geometry import Array, Grid, apply_affine, block_grid
from carl_cli.transforms.core import (
    CompositeTransform,
    DisplacementField,
    Transform,
    from_homogeneous,
)
from carl_cli.transforms.interpolation import Floats

Index = NDArray[np.int64]
SLAB_POINTS = 1 << 21
RESIDUAL_LIMIT_MM = 0.1

log = logging.getLogger(__name__)


def slabs(grid: Grid, points: int | None = None) -> Iterator[slice]:
    """Ranges of the slowest array axis holding about that many voxels each (`SLAB_POINTS`)."""
    slices = grid.shape_zyx[0]
    step = max(1, (points or SLAB_POINTS) * slices // max(1, int(np.prod(grid.size_xyz))))
    for start in range(0, slices, step):
        yield slice(start, min(start + step, slices))


def subgrid(grid: Grid, start_xyz: tuple[int, ...], size_xyz: tuple[int, ...]) -> Grid:
    """The block of `grid` that begins at voxel `start_xyz` (may lie outside)."""
    origin = apply_affine(grid.index_to_lps, np.array(start_xyz, float))
    return replace(grid, size_xyz=tuple(size_xyz), origin_mm=tuple(origin.tolist()))


def slab_grid(grid: Grid, part: slice) -> Grid:
    others = grid.dimension - 1
    size = (*grid.size_xyz[:-1], part.stop - part.start)
    return subgrid(grid, (0,) * others + (part.start,), size)


def check_dimension(transform: Transform, grid: Grid) -> None:
    """Raises InputError for a grid of another dimension than the transform."""
    if transform.dimension != grid.dimension:
        raise InputError(
            f"a transform of {transform.dimension} dimensions, a grid of {grid.dimension}",
            "give an image of the same dimension",
        )


def spaced_grid(grid: Grid, spacing_mm: float) -> Grid:
    """Cubic voxels whose centres enclose the whole of `grid`, so that nothing is extrapolated.

    The lattice is centred on the field of view: it does not depend on the corner at which the
    image's file begins, and at the image's own isotropic spacing it has the image's voxels.
    """
    return covering_grid(block_grid(grid, spacing_mm), grid.corners_mm())


def dense(transform: Transform, grid: Grid) -> DisplacementField:
    """T(x) - x at each voxel centre of `grid`, mm LPS, float32.

    A field on that very grid is returned as it is, in its own precision: samples at its own
    points would differ from it by rounding.
    """
    check_dimension(transform, grid)
    if isinstance(transform, DisplacementField) and transform.grid == grid:
        return transform
    values = np.empty((*grid.shape_zyx, grid.dimension), np.float32)
    for part in slabs(grid):
        points = slab_grid(grid, part).points_mm()
        values[part] = transform(points) - points
    return DisplacementField(grid, values)


def inverse_residual(forward: Transform, backward: Transform, grid: Grid) -> Floats:
    """|forward(backward(y)) - y| in mm at the voxel centres y of `grid`: (z, y, x) float32."""
    residual = np.empty(grid.shape_zyx, np.float32)
    for part in slabs(grid):
        points = slab_grid(grid, part).points_mm()
        residual[part] = np.linalg.norm(forward(backward(points)) - points, axis=-1)
    return residual


def log_residual(residual_mm: Floats, what: str) -> None:
    """To the log; above `RESIDUAL_LIMIT_MM` at the 99th percentile as a warning."""
    high, most = (float(np.percentile(residual_mm, q)) for q in (99, 100))
    level = logging.WARNING if high > RESIDUAL_LIMIT_MM else logging.INFO
    text = "%s: residual %.3g mm at the 99th percentile, at most %.3g mm"
    log.log(level, text, what, high, most)


def covering_grid(grid: Grid, points_mm: Array) -> Grid:
    """`grid` grown by whole voxels until its voxel centres enclose all the points."""
    low, high = _missing_layers(grid, points_mm)
    size = np.array(grid.size_xyz) + low + high
    return subgrid(grid, tuple((-low).tolist()), tuple(size.tolist()))


def extend(field: DisplacementField, points_mm: Array) -> DisplacementField:
    """The same map with a buffer that holds all the points: border displacements repeated."""
    low, high = _missing_layers(field.grid, points_mm)
    if not (low.any() or high.any()):
        return field
    widths = [*zip(low[::-1].tolist(), high[::-1].tolist(), strict=True), (0, 0)]
    values = np.pad(field.displacement_mm, widths, mode="edge")
    return DisplacementField(covering_grid(field.grid, points_mm), values)


def _missing_layers(grid: Grid, points_mm: Array) -> tuple[Index, Index]:
    """Voxels to add before the first and after the last one along x, y, z."""
    index = apply_affine(grid.lps_to_index, points_mm.reshape(-1, grid.dimension))
    last = np.array(grid.size_xyz) - 1
    # A millionth of a voxel of rounding must not cost a whole layer.
    low = np.ceil(np.maximum(-index.min(axis=0), 0) - 1e-6).astype(np.int64)
    high = np.ceil(np.maximum(index.max(axis=0) - last, 0) - 1e-6).astype(np.int64)
    return low, high


def from_network(
    displacement_voxels: Floats, fixed_grid: Grid, moving_grid: Grid, cover: Grid
) -> CompositeTransform:
    """The exact physical form of a network's result: [A, field], T(x) = A(x + u(x)).

    displacement_voxels: (D, z, y, x), components in array-axis order (z first): index i of
    the fixed network grid maps to i + d(i) on the moving network grid. With x = F i + o_F
    and y = M j + o_M: u = F d in mm on the fixed network grid, A = M F⁻¹ and offsets.
    The field is extended so that its buffer holds the whole of `cover` (the fixed image).
    """
    components = np.asarray(displacement_voxels)
    if components.shape != (fixed_grid.dimension, *fixed_grid.shape_zyx):
        raise InputError(f"displacement {components.shape} on a grid of {fixed_grid.shape_zyx}")
    xyz_last = np.moveaxis(components[::-1], 0, -1)
    field_mm = (xyz_last @ fixed_grid.index_to_lps[:-1, :-1].T).astype(np.float32)
    frame_change = from_homogeneous(moving_grid.index_to_lps @ fixed_grid.lps_to_index)
    field = extend(DisplacementField(fixed_grid, field_mm), cover.corners_mm())
    return CompositeTransform((frame_change, field))
