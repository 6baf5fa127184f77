"""Maps of points against closed forms and scipy's interpolation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from carl_cli.errors import InputError
from carl_cli.geometry import Grid, apply_affine
from carl_cli.transforms import (
    AffineTransform,
    CompositeTransform,
    DisplacementField,
    from_homogeneous,
    identity,
)
from tests.fields import field_on, inner_points, waves

GRID_2D = Grid((17, 12), (1.5, 0.8), (3.0, -2.0), (0.0, -1.0, 1.0, 0.0))


def scattered(grid: Grid, beyond: float) -> np.ndarray:
    """Points all over the grid and up to `beyond` voxels outside it."""
    rng = np.random.default_rng(3)
    last = np.array(grid.size_xyz) - 1
    index = rng.uniform(-beyond, last + beyond, (500, grid.dimension))
    return apply_affine(grid.index_to_lps, index)


def by_scipy(field: DisplacementField, points: np.ndarray) -> np.ndarray:
    index_zyx = apply_affine(field.grid.lps_to_index, points)[:, ::-1].T
    components = np.moveaxis(field.displacement_mm.astype(float), -1, 0)
    values = [map_coordinates(c, index_zyx, order=1, mode="nearest") for c in components]
    return points + np.stack(values, axis=-1)


def test_a_field_is_linear_inside_and_continues_its_border_outside(any_grid: Grid) -> None:
    field = field_on(any_grid)
    points = scattered(any_grid, beyond=9.0)
    np.testing.assert_allclose(field(points), by_scipy(field, points), atol=2e-6)


def test_a_2d_field_too() -> None:
    rng = np.random.default_rng(0)
    field = DisplacementField(GRID_2D, rng.normal(size=(12, 17, 2)))
    points = scattered(GRID_2D, beyond=4.0)
    np.testing.assert_allclose(field(points), by_scipy(field, points), atol=1e-12)


def test_the_map_is_continuous_across_the_border(any_grid: Grid) -> None:
    field = field_on(any_grid)
    index = np.array(any_grid.size_xyz, float) / 2
    for axis in range(3):
        for border in (0.0, any_grid.size_xyz[axis] - 1.0, -0.5, any_grid.size_xyz[axis] - 0.5):
            pair = np.stack([index, index])
            pair[:, axis] = border - 1e-6, border + 1e-6
            before, after = field(apply_affine(any_grid.index_to_lps, pair))
            assert np.linalg.norm(after - before) < 1e-4


def test_the_gradient_is_that_of_the_interpolant(any_grid: Grid) -> None:
    field = DisplacementField(any_grid, waves(any_grid.points_mm()))
    points = inner_points(any_grid)
    _, gradient = field.displacement_and_gradient_at(points)
    step = 1e-5
    numeric = np.stack(
        [
            (field.displacement_at(points + step * e) - field.displacement_at(points - step * e))
            / (2 * step)
            for e in np.eye(3)
        ],
        axis=-1,
    )
    # A point whose step crosses a voxel centre has two one-sided derivatives.
    agree = np.abs(gradient - numeric).max(axis=(1, 2)) < 1e-6
    assert agree.mean() > 0.99


def test_the_last_part_acts_first(affine: AffineTransform) -> None:
    turn = AffineTransform(np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]]), np.array([5.0, 0, 0]))
    point = np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose((affine @ turn)(point), affine(turn(point)))
    assert np.linalg.norm((turn @ affine)(point) - affine(turn(point))) > 1


def test_nested_composites_are_one_list_in_order(affine: AffineTransform) -> None:
    shift = AffineTransform(np.eye(3), np.array([1.0, 2.0, 3.0]))
    nested = CompositeTransform((affine, shift @ (identity(3) @ affine)))
    assert [type(p) for p in nested.parts] == [AffineTransform] * 4
    assert nested.parts[0] is affine
    assert nested.parts[1] is shift


def test_the_inverse_of_a_chain_undoes_it(any_grid: Grid, affine: AffineTransform) -> None:
    chain = affine @ field_on(any_grid)
    points = inner_points(any_grid)
    back = chain.inverse()(chain(points))
    assert np.linalg.norm(back - points, axis=-1).max() < 3e-3
    again = chain.inverse().inverse()(points)
    np.testing.assert_allclose(again, chain(points), atol=1e-9)


def test_a_strong_field_is_inverted_to_a_micrometre_scale(grids: dict[str, Grid]) -> None:
    grid = grids["oblique"]
    field = field_on(grid, lambda p: 4.5 * np.sin(p[..., [1, 2, 0]] / 8))
    points = inner_points(grid, 500)
    residual = np.linalg.norm(field(field.inverse()(points)) - points, axis=-1)
    assert residual.max() < 1.1e-3


def test_a_fold_is_left_with_a_residual_and_no_nan() -> None:
    grid = Grid((40, 4, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))
    reflect = np.zeros((4, 4, 40, 3))
    # x → 20 for all x: nothing reaches the points around 10.
    reflect[..., 0] = 20.0 - np.arange(40)
    field = DisplacementField(grid, reflect)
    result = field.inverse()(np.array([[10.0, 1.5, 1.5]]))
    assert np.isfinite(result).all()
    assert np.linalg.norm(field(result) - [10.0, 1.5, 1.5]) == pytest.approx(10.0, abs=1e-6)


def test_homogeneous_matrices_round_trip(affine: AffineTransform) -> None:
    again = from_homogeneous(affine.homogeneous)
    np.testing.assert_array_equal(again.matrix, affine.matrix)
    np.testing.assert_array_equal(again.translation, affine.translation)


def test_shapes_that_do_not_fit_are_refused(affine: AffineTransform) -> None:
    with pytest.raises(InputError, match=r"\(5, 2\).*dimension 3"):
        affine(np.zeros((5, 2)))
    with pytest.raises(InputError, match=r"\[2, 3\]"):
        affine @ identity(2)
    with pytest.raises(InputError, match="singular"):
        AffineTransform(np.zeros((3, 3)), np.zeros(3)).inverse()
    with pytest.raises(InputError, match="displacement of shape"):
        DisplacementField(GRID_2D, np.zeros((17, 12, 2)))
