"""Jacobian determinants against closed forms, SimpleITK and ANTs."""

from __future__ import annotations

import ants
import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.errors import InputError
from carl_cli.geometry import Grid
from carl_cli.io.transforms.sitk import field_to_sitk
from carl_cli.transforms import (
    AffineTransform,
    DisplacementField,
    dense,
    identity,
    jacobian_determinant,
)
from tests.conftest import make_grid
from tests.fields import field_on

AXIS_ALIGNED = make_grid((24, 20, 18), (1.5, 2.0, 2.5), (3.0, -4.0, 5.0))


def test_of_an_affine_map_everywhere(any_grid: Grid, affine: AffineTransform) -> None:
    expected = np.linalg.det(affine.matrix)
    np.testing.assert_allclose(jacobian_determinant(affine, any_grid), expected, rtol=1e-5)


def test_of_a_growing_field(any_grid: Grid) -> None:
    """u = 0.1 x: the volume grows by 1.1³, borders included."""
    field = field_on(any_grid, lambda p: 0.1 * p)
    np.testing.assert_allclose(jacobian_determinant(field, any_grid), 1.331, rtol=1e-4)


def test_of_a_shear_is_one_and_of_a_reflection_negative(any_grid: Grid) -> None:
    shear = field_on(
        any_grid, lambda p: np.stack([0.4 * p[..., 1], 0 * p[..., 1], 0 * p[..., 1]], -1)
    )
    np.testing.assert_allclose(jacobian_determinant(shear, any_grid), 1.0, rtol=1e-4)
    mirror = field_on(any_grid, lambda p: p * [-2.0, 0.0, 0.0])
    np.testing.assert_allclose(jacobian_determinant(mirror, any_grid), -1.0, rtol=1e-4)


def test_of_waves_in_closed_form(any_grid: Grid) -> None:
    """u = a sin(k·x) e: the determinant is 1 + a cos(k·x) Σ (e·d) sin(k·d h) / h over the index
    axes d with spacing h, when each derivative is a central difference."""
    along, wave, size = np.array([0.6, -0.3, 0.74]), np.array([0.09, 0.05, 0.07]), 3.0
    field = field_on(any_grid, lambda p: size * np.sin(p @ wave)[..., None] * along)
    spacing, axes = np.array(any_grid.spacing_mm), any_grid.direction_matrix
    slope = np.sum((along @ axes) * np.sin(wave @ axes * spacing) / spacing)
    expected = 1 + size * slope * np.cos(any_grid.points_mm() @ wave)
    inner = (slice(1, -1),) * 3
    ours = jacobian_determinant(field, any_grid)
    np.testing.assert_allclose(ours[inner], expected[inner], atol=1e-5)
    derivative = 1 + size * (along @ wave) * np.cos(any_grid.points_mm() @ wave)
    np.testing.assert_allclose(ours[inner], derivative[inner], atol=0.02)


def test_of_the_chain_is_the_product(affine: AffineTransform, any_grid: Grid) -> None:
    field = field_on(any_grid)
    product = np.linalg.det(affine.matrix) * jacobian_determinant(field, any_grid)
    np.testing.assert_allclose(jacobian_determinant(affine @ field, any_grid), product, rtol=1e-4)


def test_simpleitk_agrees_inside() -> None:
    """Its filter ignores the direction matrix, hence a grid without one."""
    field = field_on(AXIS_ALIGNED)
    theirs = sitk.DisplacementFieldJacobianDeterminant(field_to_sitk(field, np.float64))
    inner = (slice(1, -1),) * 3
    ours = jacobian_determinant(field, AXIS_ALIGNED)
    np.testing.assert_allclose(ours[inner], sitk.GetArrayFromImage(theirs)[inner], atol=1e-5)


@pytest.mark.parametrize("name", ["plain", "anisotropic", "oblique", "flipped", "permuted"])
def test_ants_agrees_inside(name: str, grids: dict[str, Grid]) -> None:
    grid = grids[name]
    field = field_on(grid)
    values = np.transpose(field.displacement_mm, (2, 1, 0, 3))
    geometry = {
        "origin": grid.origin_mm,
        "spacing": grid.spacing_mm,
        "direction": grid.direction_matrix,
    }
    warp = ants.from_numpy(values, has_components=True, **geometry)
    domain = ants.from_numpy(np.ones(grid.size_xyz, np.float32), **geometry)
    theirs = ants.create_jacobian_determinant_image(domain, warp).numpy().T
    inner = (slice(3, -3),) * 3
    ours = jacobian_determinant(field, grid)
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=5e-3)


def test_in_2d_and_on_a_single_slice() -> None:
    flat = Grid((20, 15), (1.0, 2.0), (0.0, 0.0), (0.0, 1.0, -1.0, 0.0))
    field = DisplacementField(flat, 0.2 * flat.points_mm())
    np.testing.assert_allclose(jacobian_determinant(field, flat), 1.44, rtol=1e-5)
    slab = make_grid((8, 8, 1), (1.0, 1.0, 3.0))
    scaling = AffineTransform(np.diag([1.0, 2.0, 3.0]), np.zeros(3))
    np.testing.assert_allclose(jacobian_determinant(scaling, slab), 6.0, rtol=1e-5)


def test_a_grid_of_another_dimension_is_refused() -> None:
    flat = Grid((4, 5), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
    for sampled in (jacobian_determinant, dense):
        with pytest.raises(InputError, match="3 dimensions, a grid of 2"):
            sampled(identity(3), flat)
