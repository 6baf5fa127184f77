"""Rigid, similarity and affine fits: exact where the map is one, unmoved by a local deformation."""

from __future__ import annotations

import numpy as np
import pytest

from carl_cli.geometry import Array
from carl_cli.transforms import AffineTransform, DisplacementField, Transform
from carl_cli.transforms.fitting import fit_affine
from carl_cli.transforms.linear import Linear
from tests.conftest import make_grid, rotation

ROTATION = rotation((7, -11, 20))
SHIFT = np.array([12.0, -7.0, 30.0])
AFFINE = AffineTransform(ROTATION @ np.diag([1.1, 0.9, 1.05]) + 0.02, SHIFT)
RIGID = AffineTransform(ROTATION, SHIFT)
SIMILAR = AffineTransform(1.07 * ROTATION, SHIFT)


@pytest.fixture
def points() -> Array:
    return make_grid((12, 13, 11), (10.0, 9.0, 12.0), (20, -40, 300)).points_mm().reshape(-1, 3)


def with_bump(transform: Transform) -> Transform:
    """Before it, a push of 15 mm inside a ball of 25 mm: about a tenth of the points."""
    grid = make_grid((30, 30, 30), (5.0, 5.0, 5.0), (20, -40, 300))
    distance = np.linalg.norm(grid.points_mm() - [30, -30, 310], axis=-1)
    push = np.where(distance < 25, 15.0, 0.0)[..., None] * np.array([1.0, 0.0, 0.0])
    return transform @ DisplacementField(grid, push.astype(np.float32))


@pytest.mark.parametrize(
    ("true", "kind"),
    [(AFFINE, "affine"), (RIGID, "affine"), (RIGID, "rigid"), (SIMILAR, "similarity")],
)
def test_an_affine_map_is_recovered(points: Array, true: AffineTransform, kind: Linear) -> None:
    weights = np.random.default_rng(0).uniform(0, 1, len(points))
    fit = fit_affine(true, points, weights, kind=kind)
    np.testing.assert_allclose(fit.matrix, true.matrix, atol=1e-9)
    np.testing.assert_allclose(fit.translation, true.translation, atol=1e-7)


@pytest.mark.parametrize(
    ("true", "kind"), [(AFFINE, "affine"), (RIGID, "rigid"), (SIMILAR, "similarity")]
)
def test_a_local_deformation_does_not_tilt_it(
    points: Array, true: AffineTransform, kind: Linear
) -> None:
    """Plain least squares is off by about a millimetre and more; the robust fit is not."""
    bumpy, even = with_bump(true), np.ones(len(points))
    pushed = np.linalg.norm(bumpy(points) - true(points), axis=1) > 1
    assert 0.02 < pushed.mean() < 0.2
    plain = np.linalg.lstsq(np.hstack([points, even[:, None]]), bumpy(points), rcond=None)[0]
    off = np.linalg.norm(np.hstack([points, even[:, None]]) @ plain - true(points), axis=1)
    fit = fit_affine(bumpy, points, even, kind=kind)
    assert off.max() > 1
    assert np.linalg.norm(fit(points) - true(points), axis=1).max() < 0.1


def test_a_rigid_fit_is_a_rotation(points: Array) -> None:
    """Of a map that mirrors and scales: still orthonormal, and not a reflection."""
    mirror = AffineTransform(np.diag([-1.0, 1.3, 0.8]), SHIFT)
    fit = fit_affine(mirror, points, np.ones(len(points)), kind="rigid")
    np.testing.assert_allclose(fit.matrix @ fit.matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(fit.matrix) == pytest.approx(1)


def test_points_without_weight_do_not_count(points: Array) -> None:
    weights = (points[:, 0] > 20).astype(float)

    class Broken(AffineTransform):
        def _map(self, flat: Array) -> Array:
            return np.where(flat[:, :1] > 20, super()._map(flat), 1e6)

    fit = fit_affine(Broken(AFFINE.matrix, AFFINE.translation), points, weights)
    np.testing.assert_allclose(fit.matrix, AFFINE.matrix, atol=1e-9)
