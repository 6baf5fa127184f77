"""Affine transforms that are known to be rigid or a similarity, and how far a fit may go."""

from __future__ import annotations

from typing import Literal

import numpy as np

from carl_cli.geometry import Array
from carl_cli.transforms.core import AffineTransform

Linear = Literal["rigid", "similarity", "affine"]


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
