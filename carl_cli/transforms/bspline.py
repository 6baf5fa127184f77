"""Cubic B-spline deformations, kept as their control points (ITK's BSplineTransform)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carl_cli.errors import InputError
from carl_cli.geometry import Array, Grid, apply_affine
from carl_cli.transforms.core import Deformation
from carl_cli.transforms.interpolation import Floats

SAMPLES_PER_CELL = 8
# Rows: control points -1, 0, 1, 2 relative to the cell; columns: powers 1, t, t², t³.
BASIS = np.array([[1, -3, 3, -1], [4, 0, -6, 3], [1, 3, 3, -3], [0, 0, 0, 1]]) / 6


@dataclass(frozen=True, eq=False)
class BSplineTransform(Deformation):
    """x → x + Σ c_k β³(i(x) - k), i the continuous index on the grid of control points.

    coefficients_mm: (z, y, x, 3) or (y, x, 2), components x first, mm LPS. ITK's displacement
    is zero outside the cells that have all their control points; here the value at the nearest
    point of that region goes on, so that the map is continuous.
    """

    grid: Grid
    coefficients_mm: Floats

    def __post_init__(self) -> None:
        values = np.ascontiguousarray(self.coefficients_mm, np.float64)
        expected = (*self.grid.shape_zyx, self.grid.dimension)
        if values.shape != expected or min(self.grid.size_xyz) < 4:
            raise InputError(f"B-spline coefficients {values.shape} on a grid of {expected}")
        object.__setattr__(self, "coefficients_mm", values)

    @property
    def dimension(self) -> int:
        return self.grid.dimension

    @property
    def sampling_grid(self) -> Grid:
        """The valid region at an eighth of the control points' spacing."""
        size = tuple((n - 3) * SAMPLES_PER_CELL + 1 for n in self.grid.size_xyz)
        spacing = tuple(s / SAMPLES_PER_CELL for s in self.grid.spacing_mm)
        origin = apply_affine(self.grid.index_to_lps, np.ones(self.dimension))
        return Grid(size, spacing, tuple(origin.tolist()), self.grid.direction)

    def displacement_at(self, points: Array) -> Array:
        block, weights, _, _ = self._support(points)
        for axis in range(self.dimension):
            block = np.einsum("nk...,nk->n...", block, weights[axis])
        return block

    def displacement_and_gradient_at(self, points: Array) -> tuple[Array, Array]:
        block, weights, slopes, inside = self._support(points)
        values = block
        columns: list[Array] = []
        for axis in range(self.dimension):
            columns = [np.einsum("nk...,nk->n...", c, weights[axis]) for c in columns]
            columns.append(np.einsum("nk...,nk->n...", values, slopes[axis]))
            values = np.einsum("nk...,nk->n...", values, weights[axis])
        by_index = np.stack(columns[::-1], axis=-1) * inside[:, None, :]
        return values, by_index @ self.grid.lps_to_index[:-1, :-1]

    def _support(self, points: Array) -> tuple[Array, list[Array], list[Array], NDArray[np.bool_]]:
        """Control points (N, 4, ..., 4, D) around each point; per array axis the weights (N, 4)
        and their derivatives; whether the point is inside along x, y, z (N, D)."""
        index = apply_affine(self.grid.lps_to_index, points)
        last = np.array(self.grid.size_xyz) - 2
        clamped = np.clip(index, 1, last)
        cell = np.minimum(np.floor(clamped).astype(np.int64), last - 1)
        t = (clamped - cell)[:, ::-1, None]
        weights = np.concatenate([np.ones_like(t), t, t**2, t**3], axis=-1) @ BASIS.T
        slopes = np.concatenate([0 * t, np.ones_like(t), 2 * t, 3 * t**2], axis=-1) @ BASIS.T
        reach = [cell[:, axis, None] + np.arange(-1, 3) for axis in range(self.dimension)][::-1]
        block = np.asarray(self.coefficients_mm[self._outer(reach)], float)
        inside = (index >= 1) & (index <= last)
        return block, list(np.moveaxis(weights, 1, 0)), list(np.moveaxis(slopes, 1, 0)), inside

    def _outer(self, reach: list[NDArray[np.int64]]) -> tuple[NDArray[np.int64], ...]:
        """Indices (N, 4) per array axis, shaped so that they span a block."""
        count = self.dimension
        return tuple(
            index.reshape(len(index), *(4 if k == axis else 1 for k in range(count)))
            for axis, index in enumerate(reach)
        )
