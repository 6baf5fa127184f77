"""Affines as a 4x4 text matrix between RAS coordinates, fixed to moving: greedy's, NiftyReg's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from carl_cli.errors import InputError
from carl_cli.geometry import Array
from carl_cli.io.ras import affine_from_ras, affine_to_ras
from carl_cli.transforms import AffineTransform


def read_greedy(path: Path) -> AffineTransform:
    return read_ras_matrix(path, "a greedy affine", "greedy's warp fields need no --from")


def read_ras_matrix(path: Path, what: str, hint: str = "") -> AffineTransform:
    return affine_from_ras(read_matrix(path, what, hint))


def read_matrix(path: Path, what: str, hint: str = "") -> Array:
    """(4, 4), its last row 0 0 0 1. Raises InputError."""
    try:
        matrix = np.loadtxt(path)
    except (ValueError, UnicodeDecodeError):
        matrix = np.empty(0)
    if matrix.shape != (4, 4) or not np.allclose(matrix[3], [0, 0, 0, 1]):
        raise InputError(f"{path}: not the 4x4 text matrix of {what}", hint)
    return np.asarray(matrix)


def write_ras_matrix(path: Path, affine: AffineTransform) -> None:
    np.savetxt(path, affine_to_ras(affine), fmt="%.12g")
