"""Grids that the network sees, and the frames in which they are found.

Everything is computed in a centred frame, where the middle of an image's field of view is at
the origin: a translation written in a header then can't change a single bit of an array.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from carl_cli.errors import InputError
from carl_cli.geometry import Grid, apply_affine
from carl_cli.io.images.files import Image
from carl_cli.io.resample import resample
from carl_cli.preprocessing.rule import orientation_axes
from carl_cli.transforms import Transform

Box = NDArray[np.float64]
"""(2, D): lower and upper corner of a box along the LPS axes, mm, x first."""
Index = NDArray[np.intp]


def centred(grid: Grid) -> Grid:
    """The same grid with its middle at (0, 0, 0); independent of its origin to the last bit."""
    middle = (np.array(grid.size_xyz, float) - 1) / 2 * np.array(grid.spacing_mm)
    return replace(grid, origin_mm=_floats(-grid.direction_matrix @ middle))


def moved(grid: Grid, offset_mm: NDArray[np.float64]) -> Grid:
    """The grid translated by offset_mm (D,), LPS."""
    return replace(grid, origin_mm=_floats(np.array(grid.origin_mm) + offset_mm))


def field_of_view(grid: Grid) -> Box:
    """Box around the outer corners of the voxels."""
    corners = grid.corners_mm()
    return np.stack([corners.min(axis=0), corners.max(axis=0)])


def aligned(size_xyz: tuple[int, ...], spacing_mm: float, centre_mm: NDArray[np.float64]) -> Grid:
    """Isotropic grid along the LPS axes with its middle at centre_mm."""
    dimension = len(size_xyz)
    origin = centre_mm - (np.array(size_xyz, float) - 1) / 2 * spacing_mm
    direction = tuple(np.eye(dimension).ravel())
    return Grid(size_xyz, (float(spacing_mm),) * dimension, _floats(origin), direction)


def stretched(grid: Grid, shape_zyx: tuple[int, ...]) -> Grid:
    """Grid of another shape over the same extent: voxel i of n at (i + 0.5)·size/n - 0.5.

    The positions of torch's interpolate(align_corners=False), by which the reference resizes.
    """
    if len(shape_zyx) != grid.dimension:
        raise InputError(
            f"an image of {grid.dimension} dimensions, these weights are for {len(shape_zyx)}",
            "choose other weights",
        )
    size = np.array(shape_zyx[::-1])
    ratio = np.array(grid.size_xyz) / size
    first = apply_affine(grid.index_to_lps, 0.5 * ratio - 0.5)
    spacing = _floats(np.array(grid.spacing_mm) * ratio)
    return Grid(tuple(int(n) for n in size), spacing, _floats(first), grid.direction)


def voxels_in(box: Box, grid: Grid) -> tuple[Index, Index]:
    """First voxel and size, x first, of the part of a grid that surrounds the box."""
    corners = np.stack(np.meshgrid(*box.T, indexing="ij"), axis=-1).reshape(-1, grid.dimension)
    index = apply_affine(grid.lps_to_index, corners)
    size = np.array(grid.size_xyz)
    start = np.clip(np.round(index.min(axis=0)).astype(int), 0, size - 1)
    stop = np.clip(np.round(index.max(axis=0)).astype(int) + 1, start + 1, size)
    return start, stop - start


def crop_image(image: Image, start_xyz: Index, size_xyz: Index) -> Image:
    """The part of an image that starts at voxel start_xyz; a view, not a copy."""
    part = tuple(slice(a, a + n) for a, n in zip(start_xyz[::-1], size_xyz[::-1], strict=True))
    origin = _floats(apply_affine(image.grid.index_to_lps, start_xyz.astype(float)))
    grid = replace(image.grid, size_xyz=tuple(int(n) for n in size_xyz), origin_mm=origin)
    return replace(image, array=image.array[part], grid=grid)


def oriented(grid: Grid, orientation: str) -> Grid:
    """The same voxels with axes permuted and flipped to point to the named sides.

    Each index axis goes to the LPS axis that it lies closest to, the clearest first.
    Raises InputError where the orientation is for another dimension.
    """
    wanted = orientation_axes(orientation)
    if len(wanted) != grid.dimension:
        raise InputError(f"orientation {orientation} for an image of {grid.dimension} dimensions")
    source = _closest_axes(grid.direction_matrix)
    order = [source[axis] for axis, _ in wanted]
    cosines = [grid.direction_matrix[axis, source[axis]] for axis, _ in wanted]
    sides = [side for _, side in wanted]
    signs = np.where(np.array(cosines) * sides > 0, 1, -1)
    size = np.array(grid.size_xyz)
    corner = np.zeros(grid.dimension)
    corner[order] = np.where(signs < 0, size[order] - 1, 0)
    return Grid(
        tuple(int(n) for n in size[order]),
        tuple(grid.spacing_mm[k] for k in order),
        _floats(apply_affine(grid.index_to_lps, corner)),
        _floats((grid.direction_matrix[:, order] * signs).ravel()),
    )


def _closest_axes(direction: NDArray[np.float64]) -> dict[int, int]:
    """LPS axis → index axis."""
    weight = np.abs(direction)
    found: dict[int, int] = {}
    for _ in range(len(weight)):
        lps, index = np.unravel_index(np.argmax(weight), weight.shape)
        found[int(lps)] = int(index)
        weight[lps, :] = weight[:, index] = -1
    return found


def _floats(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(v) for v in values)


def footprint_mm(target: Grid, source: Grid) -> tuple[float, ...]:
    """Spacing of the target along each index axis of the source (x first)."""
    cosines = target.direction_matrix.T @ source.direction_matrix
    density = np.linalg.norm(cosines / np.array(target.spacing_mm)[:, None], axis=0)
    return _floats(1 / density)


def sample_fading(
    image: Image, grid: Grid, transform: Transform | None = None, *, background: float = 0.0
) -> Image:
    """Linear samples; from its outermost voxel centres the image fades to the background.

    Within one voxel, so that a grid point may cross the border of the field of view by a hair
    without a jump from tissue to nothing.
    """
    first = apply_affine(image.grid.index_to_lps, -np.ones(image.grid.dimension))
    wider = replace(
        image.grid,
        size_xyz=tuple(n + 2 for n in image.grid.size_xyz),
        origin_mm=tuple(float(v) for v in first),
    )
    padded = np.pad(image.array, 1, constant_values=background)
    return resample(
        replace(image, array=padded, grid=wider), grid, transform, background=background
    )
