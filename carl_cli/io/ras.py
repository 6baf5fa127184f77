"""Between LPS (here, ITK, DICOM) and RAS (NIfTI, FreeSurfer, greedy): x and y change sign."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from carl_cli.geometry import Array, Grid
from carl_cli.transforms import AffineTransform, from_homogeneous

Number = TypeVar("Number", bound=np.generic)
FLIP = np.array([-1.0, -1.0, 1.0])


def affine_from_ras(matrix: Array) -> AffineTransform:
    """(4, 4) between RAS coordinates → LPS."""
    flip = np.diag([*FLIP, 1.0])
    return from_homogeneous(flip @ matrix @ flip)


def affine_to_ras(affine: AffineTransform) -> Array:
    flip = np.diag([*FLIP, 1.0])
    return np.asarray(flip @ affine.homogeneous @ flip)


def flip_vectors(values: NDArray[Number]) -> NDArray[Number]:
    """(..., 2 or 3) vectors or points, x first, from one convention to the other; dtype kept."""
    return values * FLIP[: values.shape[-1]].astype(values.dtype)


def flip_grid(grid: Grid) -> Grid:
    """A 3D grid whose origin and directions are in the other convention."""
    direction = (FLIP[:, None] * grid.direction_matrix).ravel()
    origin = FLIP * grid.origin_mm
    return replace(grid, origin_mm=tuple(origin.tolist()), direction=tuple(direction.tolist()))


def to_lps(affine: Array) -> Array:
    """(4, 4) index → RAS mm as index → LPS mm."""
    return np.asarray(np.diag([*FLIP, 1.0]) @ np.asarray(affine, float))


def grid_from_ras(affine: Array, size_xyz: tuple[int, ...]) -> Grid:
    """The grid of a (4, 4) affine, index (x, y, z) → RAS mm, whose axes are at right angles."""
    lps = to_lps(affine)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):  # zero spacing is refused by the reader
        direction = (lps[:3, :3] / spacing).ravel()
    return Grid(
        tuple(map(int, size_xyz)),
        tuple(spacing.tolist()),
        tuple(lps[:3, 3].tolist()),
        tuple(direction.tolist()),
    )


def voxel_to_ras(grid: Grid) -> Array:
    """(4, 4) index (x, y, z) → RAS mm, as a NIfTI header has it."""
    return np.asarray(np.diag([*FLIP, 1.0]) @ grid.index_to_lps)
