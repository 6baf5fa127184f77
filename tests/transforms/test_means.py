"""Means of transforms against scipy's logarithm and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import expm, logm

from carl_cli.errors import InputError
from carl_cli.transforms import AffineTransform, CompositeTransform
from carl_cli.transforms.means import (
    exponential,
    logarithm,
    mean_affine,
    mean_displacement,
    mean_map,
)
from carl_cli.transforms.sampling import inverse_residual
from tests.conftest import GRIDS, rotation
from tests.fields import field_on, inner_points, waves

GRID = GRIDS["oblique"]


def random_matrix(rng: np.random.Generator, size: int) -> np.ndarray:
    matrix = np.eye(size)
    matrix[:-1, :-1] = expm(rng.normal(0, 0.4, (size - 1, size - 1)))
    matrix[:-1, -1] = rng.normal(0, 200, size - 1)
    return matrix


@pytest.mark.parametrize("size", [3, 4])
def test_logarithm_and_exponential_are_those_of_scipy(size: int) -> None:
    rng = np.random.default_rng(0)
    for matrix in (np.eye(size), *(random_matrix(rng, size) for _ in range(20))):
        log = logarithm(matrix)
        np.testing.assert_allclose(log, logm(matrix).real, atol=1e-8)
        np.testing.assert_allclose(exponential(log), matrix, atol=1e-8)


def test_the_mean_of_rotations_turns_by_the_mean_angle_and_does_not_shrink() -> None:
    """By 20 and by 80 degrees about one axis that does not meet the origin: by 50."""
    centre = np.array([30.0, -200.0, 70.0])
    turns = [rotation((0, 0, degrees)) for degrees in (20, 80, 50)]
    given = [AffineTransform(turn, centre - turn @ centre) for turn in turns]
    mean = mean_affine(given[:2])
    np.testing.assert_allclose(mean.homogeneous, given[2].homogeneous, atol=1e-9)


def test_a_transform_and_its_inverse_have_the_identity_as_their_mean() -> None:
    affine = AffineTransform(1.3 * rotation((12, -20, 33)), np.array([40.0, -3.0, 11.0]))
    mean = mean_affine([affine, affine.inverse()])
    np.testing.assert_allclose(mean.homogeneous, np.eye(4), atol=1e-10)


@pytest.mark.parametrize("diagonal", [(-1.0, 1.0, 1.0), (-1.0, -1.0, 1.0)])
def test_mirrors_and_half_turns_are_refused(diagonal: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="half a turn"):
        mean_affine([AffineTransform(np.diag(diagonal), np.zeros(3))])


def test_mean_displacement_is_that_of_the_points() -> None:
    fields = [field_on(GRID), field_on(GRID, lambda points: -3 * waves(points))]
    mean = mean_displacement([*fields, AffineTransform(np.eye(3), np.full(3, 6.0))], GRID)
    expected = 2 - 2 / 3 * waves(GRID.points_mm())
    np.testing.assert_allclose(mean.displacement_mm, expected, atol=1e-5)


def maps() -> list[CompositeTransform]:
    """Four maps whose affine parts turn, scale and shift by up to 9 degrees, 20 % and 160 mm."""
    rng = np.random.default_rng(4)
    found = []
    for factor in (1.0, -0.6, 0.8, 0.4):
        turn = rotation(tuple(rng.uniform(-9, 9, 3))) * rng.uniform(0.9, 1.2)
        affine = AffineTransform(turn, rng.uniform(-80, 160, 3))
        found.append(CompositeTransform((affine, field_on(GRID, lambda x, f=factor: f * waves(x)))))
    return found


def test_the_mean_map_has_the_mean_pose_and_the_mean_of_the_rest() -> None:
    """A pose and the rest are what each map is."""
    points = inner_points(GRID)
    mean = mean_map(maps(), GRID, points, np.ones(len(points)))
    matrices = [mean_map([m], GRID, points, np.ones(len(points))) for m in maps()]
    for one, whole in zip(matrices, maps(), strict=True):
        np.testing.assert_allclose(one.map(points), whole(points), atol=1e-2)
    logs = [logm(one.pose.matrix).real for one in matrices]
    np.testing.assert_allclose(mean.pose.matrix, expm(np.mean(logs, axis=0)), atol=1e-8)
    centre = points.mean(axis=0)
    places = [one.pose(centre) for one in matrices]
    np.testing.assert_allclose(mean.pose(centre), np.mean(places, axis=0), atol=1e-8)
    shapes = [one.shape.displacement_mm for one in matrices]
    np.testing.assert_allclose(mean.shape.displacement_mm, np.mean(shapes, axis=0), atol=1e-5)


def test_turns_that_cancel_leave_no_mean_and_no_shrinking() -> None:
    """The mean displacement of turns by 25 degrees both ways would shrink by a tenth."""
    points = inner_points(GRID)
    centre = points.mean(axis=0)
    turns = [rotation((0, degrees, 0)) for degrees in (25, -25)]
    given = [AffineTransform(turn, centre - turn @ centre) for turn in turns]
    found = mean_map(given, GRID, points, np.ones(len(points)))
    np.testing.assert_allclose(found.map(points), points, atol=1e-4)


def test_turns_that_go_with_shapes_leave_neither_a_mean_pose_nor_a_mean_shape() -> None:
    """One image is longer along x and turned one way, the other shorter and turned the other way.
    Their mean is the identity, but their mean displacement is not 0: the turns shrink by the
    cosine, and make of the difference in length, k x, a shear of k sin. A shape without it would
    be bent by how the images lie."""
    k, degrees, points = 0.1, 5, inner_points(GRID)
    points = np.concatenate([points * (i, j, 1) for i in (1, -1) for j in (1, -1)])
    given = [
        AffineTransform(rotation((0, 0, s * degrees)) @ np.diag((1 + s * k, 1, 1)), np.zeros(3))
        for s in (1, -1)
    ]
    found = mean_map(given, GRID, points, np.ones(len(points)))
    np.testing.assert_allclose(found.map(points), points, atol=1e-4)
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    left = np.array([[cosine - 1, 0, 0], [k * sine, cosine - 1, 0], [0, 0, 0]])
    plain = np.mean([one(points) for one in given], axis=0) - points
    np.testing.assert_allclose(plain, points @ left.T, atol=1e-9)


def test_the_mean_shape_does_not_depend_on_how_the_images_lie() -> None:
    """Each image is turned by up to 50 degrees about each axis, and moved by up to 100 mm."""
    rng, points = np.random.default_rng(7), inner_points(GRID)
    moved = [
        AffineTransform(rotation(tuple(rng.uniform(-50, 50, 3))), rng.uniform(-100, 100, 3)) @ one
        for one in maps()
    ]
    shape, other = (mean_map(m, GRID, points, np.ones(len(points))).shape for m in (maps(), moved))
    np.testing.assert_allclose(other.displacement_mm, shape.displacement_mm, atol=1e-4)


def test_sizes_have_their_mean_displacement_taken_out() -> None:
    """Of 0.8, 1 and 1.3 times the size in the same pose: the geometric mean would leave 2 % of
    the distance from the middle, 0.4 mm on average here."""
    points = inner_points(GRID)
    centre, weights = points.mean(axis=0), np.ones(len(points))
    sizes = [AffineTransform(s * np.eye(3), (1 - s) * centre) for s in (0.8, 1.0, 1.3)]
    mean = mean_map(sizes, GRID, points, weights).map
    new_points = mean(points)
    left = np.mean([size(mean.inverse()(new_points)) for size in sizes], axis=0) - new_points
    assert np.abs(left).max() < 1e-3


def test_maps_through_the_inverse_of_their_mean_have_no_mean_left() -> None:
    """The shape update; a mean map of 60 mm becomes one of less than 0.02, which the field's
    interpolation leaves."""
    points, inside = inner_points(GRID), np.ones(200)
    mean = mean_map(maps(), GRID, points, inside).map
    assert np.linalg.norm(mean(points) - points, axis=1).mean() > 30
    freed = [CompositeTransform((m, mean.inverse())) for m in maps()]
    new_points = mean(points)
    low, high = new_points.min(axis=0), new_points.max(axis=0)
    grid = GRIDS["plain"]
    size = tuple(np.ceil((high - low) / 2).astype(int).tolist())
    moved = type(grid)(size, (2.0,) * 3, tuple(low.tolist()), grid.direction)
    rest = mean_map(freed, moved, new_points, inside)
    left_mm = np.linalg.norm(rest.map(new_points) - new_points, axis=1)
    assert left_mm.mean() < 0.02
    assert inverse_residual(mean, mean.inverse(), moved).mean() < 0.05
