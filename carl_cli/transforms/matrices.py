"""Determinant and adjugate of many 2x2 or 3x3 matrices, (..., D, D).

Written out because batched LAPACK takes several times longer on matrices this small.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from carl_cli.geometry import Array
from carl_cli.transforms.interpolation import Floats


def determinant(matrix: Array) -> Array:
    """(..., D, D) → (...)."""
    return np.asarray(determinant_of_rows(np.moveaxis(matrix, (-2, -1), (0, 1))))


def determinant_of_rows(rows: Sequence[Sequence[Floats]] | Array) -> Floats:
    """From the D rows of D entries, each (...): no axis of D needs to exist."""
    if len(rows) == 2:
        (a, b), (c, d) = rows
        return a * d - b * c
    (a, b, c), (d, e, f), (g, h, i) = rows
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def adjugate(matrix: Array) -> Array:
    """(..., D, D) → transposed cofactors: adjugate(J) @ J = det(J) · 1."""
    if matrix.shape[-1] == 2:
        (a, b), (c, d) = np.moveaxis(matrix, (-2, -1), (0, 1))
        return np.stack([np.stack([d, -b], -1), np.stack([-c, a], -1)], -2)
    row = np.moveaxis(matrix, -2, 0)
    columns = [np.cross(row[1], row[2]), np.cross(row[2], row[0]), np.cross(row[0], row[1])]
    return np.stack(columns, axis=-1)
