"""The phantom's truth is true: the two images show one anatomy at corresponding points."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from carl_cli.geometry import Array, apply_affine
from carl_cli.io.images.files import Image
from carl_cli.workflows.phantom import LABELS, NOISE_HU, PhantomPair, make_phantom

SHIFT = np.array([8.0, 0.0, 0.0])


@pytest.fixture(scope="module")
def pair() -> PhantomPair:
    return make_phantom(seed=3, voxel_mm=6.0)


def look_up(image: Image, points: Array, order: int) -> Array:
    """Value of an image at LPS points (N, 3) by scipy; NaN outside the voxel centres."""
    index_zyx = apply_affine(image.grid.lps_to_index, points)[:, ::-1].T
    return map_coordinates(image.array.astype(float), index_zyx, order=order, cval=np.nan)


def shown_points(pair: PhantomPair) -> tuple[Array, Array]:
    """Fixed voxel centres whose true partner the moving image shows, and their indices."""
    points = pair.fixed.grid.points_mm().reshape(-1, 3)
    shown = np.isfinite(look_up(pair.moving, pair.truth(points), 0))
    return points[shown], np.flatnonzero(shown)


def test_labels_agree_at_corresponding_points(pair: PhantomPair) -> None:
    """All but boundary voxels: at 6 mm about a tenth of the voxels of an organ touch its edge."""
    points, where = shown_points(pair)
    fixed = pair.fixed_labels.array.ravel()[where]
    moving = look_up(pair.moving_labels, pair.truth(points), 0)
    for label in LABELS:
        dice = 2 * np.sum((fixed == label) & (moving == label))
        dice /= np.sum(fixed == label) + np.sum(moving == label)
        assert dice > 0.85, LABELS[label]
    shifted = look_up(pair.moving_labels, pair.truth(points) + SHIFT, 0)
    assert np.mean(moving == fixed) > 0.96 > np.mean(shifted == fixed)


def test_intensities_differ_by_noise_alone(pair: PhantomPair) -> None:
    """Where a true partner falls on a voxel centre, nothing is interpolated.

    The median of |a - b| is 0.954 σ for two independent normal noises of deviation σ.
    """
    points, where = shown_points(pair)
    fixed = pair.fixed.array.ravel()[where]
    smooth = [k for k, name in LABELS.items() if name in ("body", "liver", "heart", "spleen")]
    body = np.isin(pair.fixed_labels.array.ravel()[where], smooth)

    def median_difference(offset_mm: Array | float) -> float:
        partners = pair.truth(points) + offset_mm
        index = apply_affine(pair.moving.grid.lps_to_index, partners)
        on_centre = np.all(np.abs(index - np.rint(index)) < 0.1, axis=-1) & body
        seen = look_up(pair.moving, partners[on_centre], 0)
        return float(np.nanmedian(np.abs(seen - fixed[on_centre])))

    assert median_difference(0.0) == pytest.approx(0.954 * NOISE_HU, rel=0.1)
    assert median_difference(SHIFT) > 1.3 * NOISE_HU


def test_truth_never_folds(pair: PhantomPair) -> None:
    """Jacobian determinant by central differences of 0.01 mm, at every fixed voxel."""
    points, step = pair.fixed.grid.points_mm(), 0.01
    columns = [
        (pair.truth(points + step * axis) - pair.truth(points - step * axis)) / (2 * step)
        for axis in np.eye(3)
    ]
    determinant = np.linalg.det(np.stack(columns, axis=-1))
    assert 0.5 < determinant.min() < 0.95
    assert 1.05 < determinant.max() < 2.0


def test_the_views_differ(pair: PhantomPair) -> None:
    fixed, moving = pair.fixed.grid, pair.moving.grid
    assert fixed.spacing_mm != moving.spacing_mm
    assert not np.allclose(fixed.direction_matrix, moving.direction_matrix)
    for grid in (fixed, moving):
        np.testing.assert_allclose(
            grid.direction_matrix @ grid.direction_matrix.T, np.eye(3), atol=1e-12
        )
        assert np.linalg.det(grid.direction_matrix) == pytest.approx(1)
    displacement = np.linalg.norm(pair.moving_points - pair.fixed_points, axis=1)
    assert displacement.min() > 10


def test_landmarks_correspond(pair: PhantomPair) -> None:
    assert len(pair.fixed_points) == 40
    np.testing.assert_array_equal(pair.truth(pair.fixed_points), pair.moving_points)
    assert np.all(look_up(pair.fixed_labels, pair.fixed_points, 0) > 1)
    assert np.all(np.isfinite(look_up(pair.moving, pair.moving_points, 0)))


def test_a_seed_is_a_phantom() -> None:
    one, same, other = (make_phantom(seed, voxel_mm=12.0) for seed in (1, 1, 2))
    assert one.fixed.array.tobytes() == same.fixed.array.tobytes()
    assert one.moving.array.tobytes() == same.moving.array.tobytes()
    assert one.fixed.array.dtype == np.int16
    assert one.fixed.array.tobytes() != other.fixed.array.tobytes()
    assert np.abs(one.truth(np.zeros(3)) - other.truth(np.zeros(3))).max() > 1
