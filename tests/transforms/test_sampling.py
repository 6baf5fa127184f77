"""Dense fields, their extension, the network's exact form and the sampled inverse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from carl_cli.errors import InputError
from carl_cli.geometry import Grid, apply_affine
from carl_cli.io.transforms.files import to_sitk_transform
from carl_cli.transforms import (
    AffineTransform,
    DisplacementField,
    dense,
    extend,
    from_network,
    inverse_residual,
    jacobian_determinant,
    sampling,
    spaced_grid,
)
from tests.conftest import make_grid, rotation
from tests.fields import field_on, inner_points


def image_and_network_grid(parity: dict[str, np.ndarray], name: str) -> tuple[Grid, Grid]:
    """Stretch rule: network voxel i lies at image voxel (i + 0.5) · size / n - 0.5."""
    size, spacing = parity[f"{name}_size"], parity[f"{name}_spacing"]
    direction = tuple(parity[f"{name}_direction"].ravel())
    image = Grid(tuple(size.tolist()), tuple(spacing), tuple(parity[f"{name}_origin"]), direction)
    count = np.array(parity["phi_AB"].shape[:0:-1])
    origin = apply_affine(image.index_to_lps, 0.5 * size / count - 0.5)
    return image, Grid(
        tuple(count.tolist()), tuple(spacing * size / count), tuple(origin), direction
    )


@pytest.fixture
def parity(parity_dir: Path) -> dict[str, np.ndarray]:
    with np.load(parity_dir / "physical_points.npz") as stored:
        return dict(stored)


def displacement_voxels(phi: np.ndarray) -> np.ndarray:
    """phi in [0, 1] is i / (n - 1), components in array order."""
    shape = np.array(phi.shape[1:])
    identity = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"))
    return phi * (shape - 1).reshape(3, 1, 1, 1) - identity


def test_points_of_the_reference_implementation(parity: dict[str, np.ndarray]) -> None:
    fixed, fixed_network = image_and_network_grid(parity, "fixed")
    _, moving_network = image_and_network_grid(parity, "moving")
    voxels = displacement_voxels(parity["phi_AB"])
    transform = from_network(voxels, fixed_network, moving_network, fixed)
    points = parity["fixed_points_lps"]
    index = apply_affine(fixed_network.lps_to_index, points)
    inside = ((index >= 0) & (index <= np.array(fixed_network.size_xyz) - 1)).all(axis=1)
    assert inside.sum() > 190
    gap = np.linalg.norm(transform(points) - parity["moving_points_lps"], axis=1)
    assert gap[inside].max() < 1e-4


def test_the_network_form_is_the_same_map_whatever_it_covers() -> None:
    fixed = make_grid((12, 10, 8), (2.0, 2.5, 3.0), (4, 5, 6), rotation((10, 20, -15)))
    moving = make_grid((12, 10, 8), (1.0, 1.5, 2.0), (-3, 1, 2), rotation((-8, 5, 40)))
    far = make_grid((30, 30, 30), (4.0, 4.0, 4.0), (10, -10, 5))
    voxels = np.random.default_rng(0).normal(size=(3, 8, 10, 12))
    near, wide = (from_network(voxels, fixed, moving, cover) for cover in (fixed, far))
    points = far.points_mm().reshape(-1, 3)
    np.testing.assert_allclose(near(points), wide(points), atol=1e-4)
    # At index i the position is i + d on the moving grid, components in array order z, y, x.
    j = np.array([3.0, 4.0, 5.0]) + voxels[::-1, 5, 4, 3]
    mapped = near(apply_affine(fixed.index_to_lps, np.array([3.0, 4.0, 5.0])))
    np.testing.assert_allclose(mapped, apply_affine(moving.index_to_lps, j), atol=1e-5)


def test_itk_agrees_in_every_corner_of_what_is_covered(any_grid: Grid) -> None:
    """ITK's displacement is zero outside the buffer; without the extension this fails."""
    small = make_grid((8, 8, 8), (3.0, 3.0, 3.0))
    voxels = np.random.default_rng(1).normal(size=(3, 8, 8, 8)) + 2
    transform = from_network(voxels, small, small, any_grid)
    theirs = to_sitk_transform(transform)
    corners = any_grid.corners_mm()
    mapped = np.array([theirs.TransformPoint(c.tolist()) for c in corners])
    np.testing.assert_allclose(mapped, transform(corners), atol=1e-5)
    bare = to_sitk_transform(from_network(voxels, small, small, small))
    gap = np.array([bare.TransformPoint(c.tolist()) for c in corners]) - transform(corners)
    assert np.linalg.norm(gap, axis=1).max() > 1


def test_to_sitk_covers_the_grid_it_is_told_even_behind_a_shift(any_grid: Grid) -> None:
    field = field_on(make_grid((9, 9, 9), (3.0, 3.0, 3.0)))
    shift = AffineTransform(np.eye(3), np.array([25.0, -10.0, 5.0]))
    chain = field @ shift
    theirs = to_sitk_transform(chain, any_grid)
    points = any_grid.points_mm().reshape(-1, 3)[::97]
    mapped = np.array([theirs.TransformPoint(p.tolist()) for p in points])
    np.testing.assert_allclose(mapped, chain(points), atol=1e-5)


def test_extension_adds_no_layer_that_is_not_needed() -> None:
    field = field_on(make_grid((5, 6, 7), (1.0, 1.0, 1.0)))
    centres = field.grid.points_mm()
    assert extend(field, centres) is field
    wider = extend(field, field.grid.corners_mm())
    assert wider.grid.size_xyz == (7, 8, 9)
    np.testing.assert_array_equal(wider.displacement_mm[1:-1, 1:-1, 1:-1], field.displacement_mm)


def test_a_dense_field_samples_the_map(any_grid: Grid, affine: AffineTransform) -> None:
    chain = affine @ field_on(any_grid)
    target = make_grid((9, 8, 7), (4.0, 5.0, 6.0), (1, 2, 3), rotation((5, 6, 7)))
    sampled = dense(chain, target)
    points = target.points_mm()
    np.testing.assert_allclose(sampled(points), chain(points), atol=1e-5)


def test_slabs_change_nothing(monkeypatch: pytest.MonkeyPatch, affine: AffineTransform) -> None:
    grid = make_grid((11, 9, 10), (2.0, 2.0, 2.0))
    chain = affine @ field_on(grid)
    whole = dense(chain, grid).displacement_mm, jacobian_determinant(chain, grid)
    monkeypatch.setattr(sampling, "SLAB_POINTS", 250)
    assert len(list(sampling.slabs(grid))) > 3
    np.testing.assert_array_equal(dense(chain, grid).displacement_mm, whole[0])
    np.testing.assert_allclose(jacobian_determinant(chain, grid), whole[1], atol=1e-6)


@pytest.mark.parametrize("spacing_mm", [1.0, 3.3, 7.0, 500.0])
def test_centres_of_a_spaced_grid_enclose_the_image(any_grid: Grid, spacing_mm: float) -> None:
    """Less than one and a half voxels to spare, the same at both ends."""
    coarse = spaced_grid(any_grid, spacing_mm)
    assert coarse.spacing_mm == (spacing_mm,) * 3
    corners = apply_affine(coarse.lps_to_index, any_grid.corners_mm())
    low, high = corners.min(axis=0), np.array(coarse.size_xyz) - 1 - corners.max(axis=0)
    assert np.all(low > -1e-5)
    assert np.all(low < 1.5)
    np.testing.assert_allclose(low, high, atol=1e-9)


@pytest.mark.parametrize("spacing_mm", [1.0, 3.3, 7.0])
def test_a_spaced_grid_has_the_same_points_for_a_flipped_file(
    any_grid: Grid, spacing_mm: float
) -> None:
    """Axes reversed and exchanged in the file: the same voxels in another order."""
    last = np.array(any_grid.size_xyz) - 1
    turned = Grid(
        any_grid.size_xyz[::-1],
        any_grid.spacing_mm[::-1],
        tuple(apply_affine(any_grid.index_to_lps, last).tolist()),
        tuple((-any_grid.direction_matrix[:, ::-1]).ravel().tolist()),
    )
    points = spaced_grid(any_grid, spacing_mm).points_mm()
    theirs = spaced_grid(turned, spacing_mm).points_mm()
    np.testing.assert_allclose(theirs.transpose(2, 1, 0, 3)[::-1, ::-1, ::-1], points, atol=1e-9)


def test_at_its_own_spacing_a_grid_keeps_its_voxels() -> None:
    grid = make_grid((7, 8, 9), (2.0, 2.0, 2.0), (1.0, -2.0, 3.0), rotation((12, -20, 33)))
    spaced = spaced_grid(grid, 2.0)
    assert spaced.size_xyz == (9, 10, 11)
    np.testing.assert_allclose(spaced.points_mm()[1:-1, 1:-1, 1:-1], grid.points_mm(), atol=1e-12)


def test_the_sampled_inverse_keeps_its_promise(any_grid: Grid, affine: AffineTransform) -> None:
    """Under 0.1 mm at the 99th percentile where the Jacobian is positive."""
    chain = affine @ field_on(any_grid, lambda p: 3.5 * np.sin(p[..., [2, 0, 1]] / 9))
    backward = dense(chain.inverse(), any_grid)
    residual = inverse_residual(chain, backward, any_grid)
    assert residual.shape == any_grid.shape_zyx
    assert np.percentile(residual, 99) < 2e-3
    points = any_grid.points_mm()
    measured = np.linalg.norm(chain(backward(points)) - points, axis=-1)
    np.testing.assert_allclose(residual, measured, atol=1e-5)


def test_a_displacement_of_the_wrong_shape_is_refused() -> None:
    grid = make_grid((4, 5, 6), (1.0, 1.0, 1.0))
    with pytest.raises(InputError, match=r"\(3, 4, 5, 6\)"):
        from_network(np.zeros((3, 4, 5, 6)), grid, grid, grid)


def test_a_field_keeps_float64_and_makes_the_rest_float32() -> None:
    grid = make_grid((2, 2, 2), (1.0, 1.0, 1.0))
    for given, kept in ((np.float64, np.float64), (np.float32, np.float32), (np.int16, np.float32)):
        assert DisplacementField(grid, np.zeros((2, 2, 2, 3), given)).displacement_mm.dtype == kept


def test_sitk_and_we_map_alike(any_grid: Grid, affine: AffineTransform) -> None:
    chain = affine @ field_on(any_grid)
    theirs = sitk.CompositeTransform(to_sitk_transform(chain))
    points = inner_points(any_grid)
    mapped = np.array([theirs.TransformPoint(p.tolist()) for p in points])
    np.testing.assert_allclose(mapped, chain(points), atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_field_on_its_own_grid_loses_nothing(dtype: type) -> None:
    """Beside a displacement of 1e30 mm, one of 1e-30: no weight of interpolation keeps both."""
    grid = make_grid((7, 6, 5), (1.5, 2.0, 2.5), (1e6, -4.0, 5.0), rotation((8, -12, 20)))
    values = np.full((*grid.shape_zyx, 3), 1e-30, dtype)
    values[::2] = 1e30
    same = dense(DisplacementField(grid, values), grid)
    np.testing.assert_array_equal(same.displacement_mm, values)
    assert same.displacement_mm.dtype == dtype
