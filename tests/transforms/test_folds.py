"""Fold repair: nothing is folded afterwards, and little is changed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, gaussian_filter

from carl_cli.geometry import Grid
from carl_cli.transforms import DisplacementField, extend, jacobian_determinant, repair_folds
from tests.conftest import GRIDS, make_grid
from tests.fields import field_on


def bumpy(grid: Grid, size_mm: float = 4.2, seed: int = 1) -> DisplacementField:
    rng = np.random.default_rng(seed)
    noise = [gaussian_filter(rng.normal(size=grid.shape_zyx), 4) for _ in range(3)]
    values = np.stack(noise, axis=-1)
    return DisplacementField(grid, (values / values.std() * size_mm).astype(np.float32))


def corner_determinants(field: DisplacementField) -> np.ndarray:
    """Smallest determinant of the linear interpolant in the corners of each cell."""
    points = field(field.grid.points_mm())
    scale = np.linalg.det(field.grid.lps_to_index[:-1, :-1])
    steps = [np.diff(points, axis=axis) for axis in (2, 1, 0)]
    smallest = np.inf
    for x in (0, 1):
        for y in (0, 1):
            for z in (0, 1):
                dx = steps[0][z : z - 1 or None, y : y - 1 or None, :]
                dy = steps[1][z : z - 1 or None, :, x : x - 1 or None]
                dz = steps[2][:, y : y - 1 or None, x : x - 1 or None]
                determinant = np.linalg.det(np.stack([dx, dy, dz], axis=-1)) * scale
                smallest = min(smallest, float(determinant.min()))
    return np.array(smallest)


@pytest.mark.parametrize("name", ["plain", "anisotropic", "flipped", "oblique"])
def test_no_voxel_is_folded_afterwards(name: str) -> None:
    grid = GRIDS[name]
    field = bumpy(grid)
    assert (jacobian_determinant(field, grid) <= 0).sum() > 20
    repaired, report = repair_folds(field)
    assert (jacobian_determinant(repaired, grid) <= 0).sum() == 0
    assert corner_determinants(repaired) > 0
    change = np.linalg.norm(repaired.displacement_mm - field.displacement_mm, axis=-1)
    assert report.changed_voxels == (change > 0).sum()
    assert report.largest_change_mm == pytest.approx(change.max(), rel=1e-5)
    assert report.mean_change_mm == pytest.approx(change[change > 0].mean(), rel=1e-5)


def test_only_the_surroundings_of_folds_change() -> None:
    grid = GRIDS["plain"]
    field = bumpy(grid)
    folded = jacobian_determinant(field, grid) <= 0
    repaired, report = repair_folds(field)
    changed = np.any(repaired.displacement_mm != field.displacement_mm, axis=-1)
    wide = extend(field, grid.corners_mm())
    near = binary_dilation(jacobian_determinant(wide, wide.grid) < 0.15, iterations=7)
    near = near[1:-1, 1:-1, 1:-1]
    assert 0 < folded.sum() <= report.folded_before
    assert not changed[~near].any()
    assert changed.mean() < 0.15
    assert near.mean() < 0.5


def test_the_change_is_smaller_than_that_of_smoothing() -> None:
    """Root mean square change against the least Gaussian that removes every fold."""
    grid = GRIDS["plain"]
    field = bumpy(grid, 3.6)
    repaired, _ = repair_folds(field)
    for sigma in np.arange(0.5, 8, 0.5):
        smooth = gaussian_filter(field.displacement_mm, (sigma, sigma, sigma, 0))
        if (jacobian_determinant(DisplacementField(grid, smooth), grid) > 0).all():
            break
    ours, theirs = (
        np.sqrt(np.mean((values - field.displacement_mm) ** 2))
        for values in (repaired.displacement_mm, smooth)
    )
    assert ours < theirs / 4


def test_a_field_without_folds_is_returned_as_it_is(any_grid: Grid) -> None:
    field = field_on(any_grid)
    repaired, report = repair_folds(field)
    np.testing.assert_array_equal(repaired.displacement_mm, field.displacement_mm)
    assert report.folded_before == report.changed_voxels == 0
    assert report.largest_change_mm == report.mean_change_mm == 0


def test_an_alternating_field_that_central_differences_do_not_see() -> None:
    grid = make_grid((10, 10, 10), (1.0, 1.0, 1.0))
    values = np.zeros((10, 10, 10, 3), np.float32)
    values[..., 0] = 1.5 * (-1.0) ** np.arange(10)
    field = DisplacementField(grid, values)
    assert (jacobian_determinant(field, grid)[..., 1:-1] > 0).all()
    assert corner_determinants(field) < 0
    repaired, report = repair_folds(field)
    assert report.folded_before == 1000
    assert corner_determinants(repaired) > 0


def test_repaired_fields_can_be_inverted() -> None:
    """Everywhere, its borders included; before, some voxels had no way back."""
    grid = GRIDS["plain"]
    folded = bumpy(grid, 3.2)
    repaired, _ = repair_folds(folded)

    def unreached(field: DisplacementField) -> int:
        mapped = field(grid.points_mm())
        residual = np.linalg.norm(field(field.inverse()(mapped)) - mapped, axis=-1)
        return int((residual > 0.01).sum())

    assert unreached(folded) > 20
    assert unreached(repaired) == 0


def test_in_2d() -> None:
    grid = Grid((40, 30), (1.0, 1.3), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
    rng = np.random.default_rng(0)
    values = np.stack([gaussian_filter(rng.normal(size=(30, 40)), 3) for _ in range(2)], axis=-1)
    field = DisplacementField(grid, values / values.std() * 2.5)
    assert (jacobian_determinant(field, grid) <= 0).any()
    repaired, _ = repair_folds(field)
    assert (jacobian_determinant(repaired, grid) > 0).all()
