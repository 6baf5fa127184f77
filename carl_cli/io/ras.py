"""Between LPS (here, ITK, DICOM) and RAS (NIfTI, FreeSurfer, greedy): x and y change sign."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carl_cli.geometry import Array, Grid
from carl_cli.transforms import AffineTransform, from_homogeneous

FLIP = np.array([-1.0, -1.0, 1.0])


def affine_from_ras(matrix: Array) -> AffineTransform:
    """(4, 4) between RAS coordinates → LPS."""
    flip = np.diag([*FLIP, 1.0])
    return from_homogeneous(flip @ matrix @ flip)


def affine_to_ras(affine: AffineTransform) -> Array:
    flip = np.diag([*FLIP, 1.0])
    return np.asarray(flip @ affine.homogeneous @ flip)


def flip_vectors(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """(..., 3) vectors or points from one convention to the other."""
    return values * FLIP.astype(values.dtype)


def voxel_to_ras(grid: Grid) -> Array:
    """(4, 4) index (x, y, z) → RAS mm, as a NIfTI header has it."""
    return np.asarray(np.diag([*FLIP, 1.0]) @ grid.index_to_lps)
