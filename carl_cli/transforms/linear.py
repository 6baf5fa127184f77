"""Affine transforms that are known to be rigid or a similarity, and how far a fit may go."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from carl_cli.errors import UsageError
from carl_cli.geometry import Array, Grid
from carl_cli.transforms.core import AffineTransform

Linear = Literal["rigid", "similarity", "affine"]
RIGID_TOLERANCE = 1e-4  # of the entries of MᵀM - 1: what a matrix written with few digits strays


class SimilarityTransform(AffineTransform):
    """x → scale · rotation · x + translation, LPS mm: ITK's Similarity2D and 3D."""

    def inverse(self) -> AffineTransform:
        exact = super().inverse()
        return type(self)(exact.matrix, exact.translation)

    @property
    def scale(self) -> float:
        """Of lengths."""
        return float(abs(np.linalg.det(self.matrix)) ** (1 / self.dimension))

    @property
    def rotation(self) -> Array:
        """(D, D), orthonormal to the last bit that counts: ITK checks it."""
        u, _, vt = np.linalg.svd(self.matrix)
        return np.asarray(u @ vt)


class RigidTransform(SimilarityTransform):
    """x → rotation · x + translation, LPS mm: ITK's Euler2D and 3D."""


KINDS: dict[Linear, type[AffineTransform]] = {
    "rigid": RigidTransform,
    "similarity": SimilarityTransform,
    "affine": AffineTransform,
}


def carried_back(grid: Grid, rigid: AffineTransform) -> Grid:
    """Where the inverse of a rigid transform carries a grid: its origin and direction, LPS mm.

    With the moving image's grid and a transform of fixed to moving points, the moving image lies
    on the fixed one, each voxel as it was. Raises UsageError for a transform that is not rigid.
    """
    matrix = rigid.matrix
    stray = np.abs(matrix.T @ matrix - np.eye(grid.dimension)).max()
    if stray > RIGID_TOLERANCE or np.linalg.det(matrix) < 0:
        raise UsageError(
            "the transform scales, shears or mirrors, a rigid one was expected",
            "a header holds rotation and translation alone: resample the image instead",
        )
    exact = RigidTransform(RigidTransform(matrix, rigid.translation).rotation, rigid.translation)
    back = exact.inverse()
    origin, direction = back(np.array(grid.origin_mm)), back.matrix @ grid.direction_matrix
    return replace(
        grid, origin_mm=tuple(origin.tolist()), direction=tuple(direction.ravel().tolist())
    )
