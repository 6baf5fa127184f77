"""Transforms in closed form on the hard grids, and points that lie well inside."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from carl_cli.geometry import Grid
from carl_cli.transforms import DisplacementField

TRANSLATION = (6.0, -4.0, 3.0)


def waves(points: np.ndarray) -> np.ndarray:
    """Closed-form displacement, mm: up to 3 mm, no axis like another."""
    x, y, z = np.moveaxis(points, -1, 0)
    return np.stack(
        [
            2.0 * np.sin(y / 11 + 0.4) + np.cos(z / 13),
            1.5 * np.sin(z / 12 - 0.3) + 0.8 * np.cos(x / 15),
            1.8 * np.sin(x / 14 + y / 17),
        ],
        axis=-1,
    )


def field_on(
    grid: Grid, displacement: Callable[[np.ndarray], np.ndarray] = waves
) -> DisplacementField:
    return DisplacementField(grid, displacement(grid.points_mm()).astype(np.float32))


def constant_field(grid: Grid, vector: tuple[float, ...] = TRANSLATION) -> DisplacementField:
    values = np.broadcast_to(np.array(vector, np.float32), (*grid.shape_zyx, grid.dimension))
    return DisplacementField(grid, values)


def inner_points(grid: Grid, count: int = 200, margin: float = 3.0) -> np.ndarray:
    """(count, D) LPS points at least `margin` voxels inside the outermost centres."""
    rng = np.random.default_rng(5)
    index = rng.uniform(margin, np.array(grid.size_xyz) - 1 - margin, (count, grid.dimension))
    return index @ grid.index_to_lps[:-1, :-1].T + grid.index_to_lps[:-1, -1]
