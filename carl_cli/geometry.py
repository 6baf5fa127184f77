"""The sampling grid of an image in physical space.

Frames, named once for the whole project:
  LPS     millimetres; x to the patient's left, y to posterior, z to superior (ITK, DICOM).
  index   continuous voxel index (x, y, z); integer values are voxel centres.
Axis orders: `size_xyz` and points are x first; `shape_zyx` and arrays are x last.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """Regular grid of voxel centres: x_LPS = origin + direction · (spacing * index).

    size_xyz: voxels along x, y(, z). spacing_mm: positive. origin_mm: LPS position of
    voxel (0, 0, 0). direction: row-major D·D rotation or reflection; column k is the
    LPS direction of index axis k. Two and three dimensions.
    """

    size_xyz: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    origin_mm: tuple[float, ...]
    direction: tuple[float, ...]

    @property
    def dimension(self) -> int:
        return len(self.size_xyz)

    @property
    def shape_zyx(self) -> tuple[int, ...]:
        return self.size_xyz[::-1]

    @cached_property
    def direction_matrix(self) -> Array:
        """(D, D); column k is the LPS direction of index axis k."""
        return np.array(self.direction, float).reshape(self.dimension, self.dimension)

    @cached_property
    def index_to_lps(self) -> Array:
        """(D+1, D+1) homogeneous matrix, index (x, y, z) → LPS mm."""
        matrix = np.eye(self.dimension + 1)
        matrix[:-1, :-1] = self.direction_matrix * np.array(self.spacing_mm)
        matrix[:-1, -1] = self.origin_mm
        return matrix

    @cached_property
    def lps_to_index(self) -> Array:
        """(D+1, D+1) homogeneous matrix, LPS mm → index (x, y, z)."""
        inverse: Array = np.asarray(np.linalg.inv(self.index_to_lps), float)
        return inverse

    @cached_property
    def centre_mm(self) -> Array:
        """(D,) LPS position of the middle of the grid."""
        middle: Array = np.subtract(self.size_xyz, 1) / 2
        return apply_affine(self.index_to_lps, middle)

    def points_mm(self) -> Array:
        """(z, y, x, D) LPS position of each voxel; in 2D (y, x, D)."""
        axes = [np.arange(n, dtype=float) for n in self.shape_zyx]
        index_zyx = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        return apply_affine(self.index_to_lps, index_zyx[..., ::-1])

    def corners_mm(self) -> Array:
        """(2**D, D) LPS positions of the outer corners, half a voxel beyond the centres."""
        ends = [(-0.5, n - 0.5) for n in self.size_xyz]
        index = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, self.dimension)
        return apply_affine(self.index_to_lps, index)

    def matches(self, other: Grid, tolerance_voxels: float = 1e-3) -> bool:
        """Same size, and every corner at the same place to within a part of a voxel."""
        if self.size_xyz != other.size_xyz:
            return False
        gap_mm = np.abs(self.corners_mm() - other.corners_mm()).max()
        return bool(gap_mm <= tolerance_voxels * min(self.spacing_mm))


def block_grid(grid: Grid, spacing_mm: float) -> Grid:
    """A coarser grid along the same axes that holds the whole field of view, borders included.

    Isotropic blocks; where they reach beyond the image, they do so evenly at both ends. The
    origin is the centre of the first block, not that of the image's first voxel.
    """
    extent_mm = np.array(grid.size_xyz) * np.array(grid.spacing_mm)
    size = np.maximum(np.ceil(extent_mm / spacing_mm - 1e-6), 1).astype(int)
    spare_mm = (size * spacing_mm - extent_mm) / 2  # shared by both ends
    first_mm = (spacing_mm - np.array(grid.spacing_mm)) / 2 - spare_mm
    origin = np.array(grid.origin_mm) + grid.direction_matrix @ first_mm
    spacing = (spacing_mm,) * grid.dimension
    return Grid(tuple(map(int, size)), spacing, tuple(map(float, origin)), grid.direction)


def apply_affine(matrix: Array, points: Array) -> Array:
    """Homogeneous (D+1, D+1) matrix applied to points of shape (..., D)."""
    mapped: Array = np.add(np.matmul(points, matrix[:-1, :-1].T), matrix[:-1, -1])
    return mapped
