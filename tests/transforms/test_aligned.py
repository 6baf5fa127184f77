"""Jacobian determinants by one small matrix an axis equal those by differences of mapped points."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from carl_cli.geometry import Grid
from carl_cli.transforms import jacobian
from carl_cli.transforms import jacobian as aligned
from carl_cli.transforms.core import (
    AffineTransform,
    CompositeTransform,
    DisplacementField,
    Transform,
    identity,
)
from tests.conftest import make_grid, rotation


def _field(grid: Grid, seed: int = 0) -> DisplacementField:
    values = np.random.default_rng(seed).normal(size=(*grid.shape_zyx, grid.dimension))
    return DisplacementField(grid, values)  # float64, so that only the way differs


def _oblique(size: tuple[int, int, int], spacing: tuple[float, float, float]) -> Grid:
    return make_grid(size, spacing, (3.0, -2.0, 1.0), rotation((12, -20, 33)))


FIELD = _field(_oblique((9, 8, 7), (5.0, 4.0, 6.0)))
AFFINE = AffineTransform(
    np.array([[1.1, 0.2, 0.0], [-0.1, 0.9, 0.1], [0.0, 0.3, 1.2]]), np.array([1.0, 2.0, 3.0])
)
SHIFT = AffineTransform(np.diag([1.0, 1.0, 1.0]), np.array([0.3, -0.4, 0.2]))
FINE = _oblique((73, 30, 29), (0.7, 1.5, 1.9))  # wider than the field along x


def _turned(grid: Grid) -> Grid:
    """The same axes in another order, one of them backwards."""
    direction = grid.direction_matrix[:, [2, 0, 1]] * [1.0, -1.0, 1.0]
    return replace(grid, direction=tuple(map(float, direction.ravel())))


CASES: dict[str, tuple[Transform, Grid]] = {
    "same grid": (FIELD, FIELD.grid),
    "finer and wider": (FIELD, FINE),
    "axes permuted and flipped": (FIELD, _turned(FINE)),
    "affine after": (CompositeTransform((AFFINE, FIELD)), FINE),
    "affine before and after": (CompositeTransform((AFFINE, FIELD, SHIFT)), FINE),
    "one slice": (FIELD, _oblique((20, 17, 1), (1.0, 1.5, 2.0))),
    "one sample across": (_field(_oblique((9, 8, 1), (5.0, 4.0, 6.0))), FINE),
    "2D": (
        _field(Grid((6, 7), (2.0, 3.0), (0.0, 1.0), (0.0, 1.0, -1.0, 0.0))),
        Grid((15, 16), (1.1, 0.9), (0.4, 2.0), (1.0, 0.0, 0.0, 1.0)),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_both_ways_agree(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    transform, grid = CASES[case]
    monkeypatch.setattr("carl_cli.transforms.jacobian.CACHED_POINTS", 3000)  # several slabs
    assert aligned.aligned_field(transform, grid) is not None
    found = jacobian.jacobian_determinant(transform, grid)
    expected = np.linalg.det(jacobian.jacobian_matrix(transform, grid, slice(None)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)  # float32 of 16 or less
    assert expected.std() > 0.05


@pytest.mark.parametrize(
    ("transform", "grid"),
    [
        (FIELD, make_grid((20, 20, 20), (2.0, 2.0, 2.0))),  # oblique to the field
        (CompositeTransform((FIELD, FIELD)), FINE),
        (CompositeTransform((FIELD, AFFINE)), FINE),
        (CompositeTransform((FIELD, FIELD.inverse())), FINE),
        (identity(3), FINE),
    ],
)
def test_other_maps_take_the_general_way(transform: Transform, grid: Grid) -> None:
    assert aligned.aligned_field(transform, grid) is None
