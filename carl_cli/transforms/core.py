"""Maps of points in LPS millimetres, from the fixed image's space to the moving image's.

Points are (..., D) with D = 2 or 3, x first. A transform that resamples the moving image
onto the fixed one is the map of fixed points to moving points (as in ITK and ANTs).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import ArrayLike

from carl_cli.errors import InputError
from carl_cli.geometry import Array, Grid, apply_affine
from carl_cli.transforms.interpolation import Floats, chunks, interpolate, interpolate_with_gradient
from carl_cli.transforms.inversion import solve

INVERSE_TOLERANCE_MM = 1e-3


class Transform(ABC):
    """A map of points. `(A @ B)(x) = A(B(x))`."""

    @property
    @abstractmethod
    def dimension(self) -> int: ...

    @property
    def parts(self) -> tuple[Transform, ...]:
        """What it is composed of, the last one acting first: itself, if it is no composite."""
        return (self,)

    @abstractmethod
    def inverse(self) -> Transform:
        """The map back: exact for affine parts, solved pointwise for fields.

        Raises InputError for a singular affine part.
        """

    @abstractmethod
    def _map(self, points: Array) -> Array:
        """(N, D) → (N, D)."""

    def __call__(self, points_lps: ArrayLike) -> Array:
        """Mapped points, same shape (..., D), float64, mm LPS.

        Raises InputError for points of another dimension.
        """
        points = np.asarray(points_lps, dtype=float)
        if points.shape[-1:] != (self.dimension,):
            raise InputError(
                f"points of shape {points.shape} meet a transform of dimension {self.dimension}",
                "the last axis of the points must hold x, y (and z)",
            )
        flat = points.reshape(-1, self.dimension)
        mapped = np.empty_like(flat)
        for part in chunks(len(flat)):
            mapped[part] = self._map(flat[part])
        return mapped.reshape(points.shape)

    def __matmul__(self, other: Transform) -> CompositeTransform:
        return CompositeTransform((self, other))


@dataclass(frozen=True, eq=False)
class AffineTransform(Transform):
    """x → matrix · x + translation; matrix (D, D), translation (D,) in mm."""

    matrix: Array
    translation: Array

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=float)
        translation = np.array(self.translation, dtype=float)
        size = len(translation)
        finite = np.isfinite(matrix).all() and np.isfinite(translation).all()
        if matrix.shape != (size, size) or not finite:
            raise InputError(
                f"an affine needs finite numbers in a matrix ({size}, {size}): {matrix.shape}"
            )
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "translation", translation)

    @property
    def dimension(self) -> int:
        return len(self.translation)

    @property
    def homogeneous(self) -> Array:
        """(D+1, D+1)."""
        result = np.eye(self.dimension + 1)
        result[:-1, :-1], result[:-1, -1] = self.matrix, self.translation
        return result

    def inverse(self) -> AffineTransform:
        if abs(np.linalg.det(self.matrix)) < 1e-12:
            raise InputError("the affine transform is singular: it has no inverse")
        return from_homogeneous(np.linalg.inv(self.homogeneous))

    def _map(self, points: Array) -> Array:
        return points @ self.matrix.T + self.translation


def from_homogeneous(matrix: ArrayLike) -> AffineTransform:
    """(D+1, D+1) matrix in LPS mm."""
    values = np.asarray(matrix, dtype=float)
    return AffineTransform(values[:-1, :-1], values[:-1, -1])


def identity(dimension: int) -> AffineTransform:
    return AffineTransform(np.eye(dimension), np.zeros(dimension))


def composed(parts: Iterable[Transform]) -> Transform:
    """`parts[0](parts[1](... x))`; a single part stays what it is."""
    some = tuple(parts)
    return some[0] if len(some) == 1 else CompositeTransform(some)


class Deformation(Transform):
    """x → x + u(x) with a known derivative, which is what a pointwise inverse needs."""

    @property
    @abstractmethod
    def sampling_grid(self) -> Grid:
        """Where samples of this deformation or its inverse lose nothing that matters."""

    @abstractmethod
    def displacement_at(self, points: Array) -> Array:
        """u (N, D) in mm at points (N, D) LPS."""

    @abstractmethod
    def displacement_and_gradient_at(self, points: Array) -> tuple[Array, Array]:
        """u (N, D) in mm and du/dx (N, D, D) without unit at points (N, D) LPS."""

    def inverse(self) -> Transform:
        return InverseField(self)

    def _map(self, points: Array) -> Array:
        return points + self.displacement_at(points)


@dataclass(frozen=True, eq=False)
class DisplacementField(Deformation):
    """x → x + u(x), u interpolated linearly on `grid`.

    displacement_mm: (z, y, x, 3) or (y, x, 2), components x first, mm LPS, float32 (float64
    is kept). Beyond the outermost voxel centres the border displacement goes on, so the map
    is continuous. ITK differs: its displacement drops to zero half a voxel outside, which is
    why writers extend a field over the image it belongs to (`extend`).
    """

    grid: Grid
    displacement_mm: Floats

    def __post_init__(self) -> None:
        values = np.asarray(self.displacement_mm)
        expected = (*self.grid.shape_zyx, self.grid.dimension)
        if values.shape != expected:
            raise InputError(f"displacement of shape {values.shape} on a grid of {expected}")
        dtype = np.float64 if values.dtype == np.float64 else np.float32
        object.__setattr__(self, "displacement_mm", np.ascontiguousarray(values, dtype))

    @property
    def dimension(self) -> int:
        return self.grid.dimension

    @property
    def sampling_grid(self) -> Grid:
        return self.grid

    def displacement_at(self, points: Array) -> Array:
        index = apply_affine(self.grid.lps_to_index, points)
        return interpolate(self.displacement_mm, index).astype(float)

    def displacement_and_gradient_at(self, points: Array) -> tuple[Array, Array]:
        index = apply_affine(self.grid.lps_to_index, points)
        values, by_index = interpolate_with_gradient(self.displacement_mm, index)
        return values.astype(float), by_index @ self.grid.lps_to_index[:-1, :-1]


@dataclass(frozen=True, eq=False)
class InverseField(Transform):
    """The inverse of a deformation, solved at each point when called.

    Accurate to `INVERSE_TOLERANCE_MM` wherever it is not folded; no grid of its own.
    """

    field: Deformation

    @property
    def dimension(self) -> int:
        return self.field.dimension

    def inverse(self) -> Deformation:
        return self.field

    def _map(self, points: Array) -> Array:
        return solve(self.field.displacement_and_gradient_at, points, INVERSE_TOLERANCE_MM)


class CompositeTransform(Transform):
    """x → `parts[0](parts[1](... x))`: the last part acts first, as in ITK's composite.

    Parts that are composites are unpacked. Raises InputError where dimensions differ.
    """

    def __init__(self, parts: Iterable[Transform]) -> None:
        self._parts = tuple(inner for part in parts for inner in part.parts)
        dimensions = {part.dimension for part in self._parts}
        if len(dimensions) != 1:
            raise InputError(f"can't compose transforms of dimensions {sorted(dimensions)}")

    @property
    def parts(self) -> tuple[Transform, ...]:
        return self._parts

    @property
    def dimension(self) -> int:
        return self.parts[0].dimension

    def inverse(self) -> CompositeTransform:
        return CompositeTransform(part.inverse() for part in reversed(self.parts))

    def _map(self, points: Array) -> Array:
        return reduce(lambda moved, part: part._map(moved), reversed(self.parts), points)
