"""Greedy's affine: a 4x4 text matrix between RAS coordinates, fixed to moving (as c3d's)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from carl_cli.errors import InputError
from carl_cli.io.ras import affine_from_ras, affine_to_ras
from carl_cli.transforms import AffineTransform


def read_greedy(path: Path) -> AffineTransform:
    try:
        matrix = np.loadtxt(path)
    except (ValueError, UnicodeDecodeError):
        matrix = np.empty(0)
    if matrix.shape != (4, 4) or not np.allclose(matrix[3], [0, 0, 0, 1]):
        raise InputError(
            f"{path}: not the 4x4 text matrix of a greedy affine",
            "greedy's warp fields need no --from: they are ITK fields",
        )
    return affine_from_ras(matrix)


def write_greedy(path: Path, affine: AffineTransform) -> None:
    np.savetxt(path, affine_to_ras(affine), fmt="%.12g")
