"""Affines as text: between RAS coordinates (greedy, NiftyReg, MRtrix), AFNI's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from carl_cli.errors import InputError
from carl_cli.geometry import Array
from carl_cli.io.ras import affine_from_ras, affine_to_ras
from carl_cli.transforms import AffineTransform, from_homogeneous


def read_ras_matrix(path: Path, what: str, hint: str = "") -> AffineTransform:
    """A 4x4 text matrix, fixed to moving."""
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


def read_afni(path: Path) -> AffineTransform:
    """One `.aff12.1D` line of 12 numbers, fixed (base) to moving in DICOM order, which is LPS.

    It is of images without an oblique header: AFNI sets the obliquity of others aside.
    """
    try:
        numbers = np.loadtxt(path, ndmin=2)
    except (ValueError, UnicodeDecodeError):
        numbers = np.empty((0, 0))
    if numbers.size != 12:
        raise InputError(
            f"{path}: {numbers.size} numbers, one matrix of 12 was expected",
            "a time series of matrices: take the line of one volume",
        )
    return from_homogeneous(np.vstack([numbers.reshape(3, 4), [0, 0, 0, 1]]))
