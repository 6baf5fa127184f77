"""Display volumes: anatomy where the letters say it is, from any axis order."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest

from carl_cli.geometry import Grid
from carl_cli.io.images.files import Image
from carl_cli.report.planes import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    focus_xyz,
    grid_spacing_mm,
    jacobian_limit,
    otsu_level,
    planes_of,
    round_near,
)
from carl_cli.report.scene import (
    build_scene,
    canonical_grid,
    display_grid,
    end_letters,
    grey_window,
    overlap_fraction,
)
from carl_cli.transforms import AffineTransform, identity
from tests.report.conftest import MARKER, Pair, grid_around, head_at

ORIENTATIONS = [
    (order, signs) for order in permutations(range(3)) for signs in product((1.0, -1.0), repeat=3)
]


def stored_as(order: tuple[int, ...], signs: tuple[float, ...]) -> Grid:
    direction = np.zeros((3, 3))
    for axis, (towards, sign) in enumerate(zip(order, signs, strict=True)):
        direction[towards, axis] = sign
    size, spacing = np.array([36, 45, 40]), np.array([4.0, 4.1, 4.2])
    chosen = list(order)
    flat = tuple(direction.ravel().tolist())
    return grid_around(tuple(size[chosen].tolist()), tuple(spacing[chosen].tolist()), flat)


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_every_storage_order_gives_the_same_pictures(order: tuple, signs: tuple) -> None:
    grid = stored_as(order, signs)
    image = Image(head_at(grid.points_mm()).astype(np.float32), grid)
    plain = stored_as((0, 1, 2), (1.0, 1.0, 1.0))
    scene = build_scene(image, image, image, identity(3), longest=64)
    assert scene.grid.matches(plain)
    assert scene.letters == (("R", "L"), ("A", "P"), ("I", "S"))
    low, high = grey_window(image)
    expected = np.clip((head_at(plain.points_mm()) - low) / (high - low), 0, 1) * 255
    np.testing.assert_allclose(scene.fixed, expected, atol=0.51)


def test_canonical_axes_of_an_oblique_grid() -> None:
    turn = np.radians(30)
    direction = (0, np.cos(turn), -np.sin(turn), 0, np.sin(turn), np.cos(turn), -1, 0, 0)
    grid = grid_around((10, 20, 30), (1.0, 2.0, 3.0), tuple(float(v) for v in direction))
    turned, order, flipped = canonical_grid(grid)
    assert order == (1, 2, 0)
    assert flipped == (False, False, True)
    assert turned.size_xyz == (20, 30, 10)
    np.testing.assert_allclose(
        np.sort(turned.corners_mm(), axis=0), np.sort(grid.corners_mm(), axis=0), atol=1e-9
    )
    assert end_letters(turned.direction_matrix[:, 0]) == ("RA", "LP")
    assert end_letters(turned.direction_matrix[:, 2]) == ("I", "S")


def test_display_grid_covers_the_image_and_never_invents_voxels() -> None:
    grid = grid_around((300, 200, 12), (1.0, 1.0, 5.0))
    small = display_grid(grid, 100)
    assert small.size_xyz == (100, 67, 12)
    np.testing.assert_allclose(small.corners_mm(), grid.corners_mm(), atol=1e-9)


def test_shrinking_averages_instead_of_skipping() -> None:
    grid = grid_around((128, 128, 128), (1.0, 1.0, 1.0))
    checker = (np.indices((128, 128, 128)).sum(0) % 2).astype(np.float32)
    scene = build_scene(*[Image(checker, grid)] * 3, identity(3), longest=32)
    assert np.ptp(scene.fixed[2:-2, 2:-2, 2:-2].astype(int)) < 8


def test_slices_are_radiological(pair: Pair) -> None:
    scene = build_scene(pair.fixed, pair.moving, pair.warped, pair.transform)
    x, y, z = np.round((np.array(MARKER[0]) - scene.grid.origin_mm) / scene.grid.spacing_mm).astype(
        int
    )
    volume = np.zeros_like(scene.fixed)
    volume[z, y, x] = 1
    for plane, index, column, row in (
        (AXIAL, z, x, y),
        (CORONAL, y, x, z),
        (SAGITTAL, x, y, z),
    ):
        assert np.argwhere(plane.slice(volume, index)).tolist() == [[row, column]]
    assert x > scene.fixed.shape[2] / 2  # patient's left on the right of the screen
    assert y < scene.fixed.shape[1] / 2


def test_warped_covers_fixed_and_moving_does_not(pair: Pair) -> None:
    scene = build_scene(pair.fixed, pair.moving, pair.warped, pair.transform)
    fixed = scene.fixed.astype(float)
    after = np.abs(fixed - scene.warped).mean()
    before = np.abs(fixed - scene.before).mean()
    mirrored = np.abs(fixed - scene.warped[:, :, ::-1]).mean()
    assert after < 2 < mirrored
    assert after < before / 5
    assert scene.overlap == pytest.approx(overlap_fraction(scene.grid, pair.moving.grid))


def test_mapped_lattice_is_the_transform_in_display_axes(pair: Pair) -> None:
    scene = build_scene(pair.fixed, pair.moving, pair.warped, pair.transform)
    first = np.array(scene.grid.origin_mm)
    last = first + (np.array(scene.grid.size_xyz) - 1) * scene.grid.spacing_mm
    np.testing.assert_allclose(scene.mapped[0, 0, 0], pair.transform(first) - first, atol=1e-3)
    np.testing.assert_allclose(scene.mapped[-1, -1, -1], pair.transform(last) - first, atol=1e-3)


def test_disjoint_images_are_shown_with_centres_aligned(pair: Pair) -> None:
    far = replace(pair.fixed.grid, origin_mm=(900.0, 0.0, 0.0))
    moving = Image(pair.fixed.array, far)
    scene = build_scene(pair.fixed, moving, pair.fixed, identity(3))
    assert scene.overlap == 0
    assert scene.centred
    assert np.abs(scene.fixed.astype(int) - scene.before).max() <= 1


def test_labels_are_exact_values_in_both_frames(pair: Pair) -> None:
    big = Image(pair.labels[0].array.astype(np.uint32) * 2**25, pair.labels[0].grid)
    moving = Image(pair.labels[1].array.astype(np.uint32) * 2**25, pair.labels[1].grid)
    scene = build_scene(pair.fixed, pair.moving, pair.warped, pair.transform, labels=(big, moving))
    assert scene.label_values == (7 * 2**25,)
    both = (scene.fixed_labels > 0) & (scene.warped_labels > 0)
    total = (scene.fixed_labels > 0).sum() + (scene.warped_labels > 0).sum()
    assert 2 * both.sum() / total > 0.9


def test_jacobian_of_a_scaling_and_of_a_given_map(pair: Pair) -> None:
    scaling = AffineTransform(np.diag([1.5, 1.0, 0.8]), np.zeros(3))
    scene = build_scene(pair.fixed, pair.moving, pair.warped, scaling)
    np.testing.assert_allclose(scene.jacobian, 1.2, atol=1e-4)
    given = Image(np.full(pair.fixed.grid.shape_zyx, -0.5, np.float32), pair.fixed.grid)
    scene = build_scene(pair.fixed, pair.moving, pair.warped, scaling, jacobian=given)
    np.testing.assert_allclose(scene.jacobian, -0.5)


def test_flat_pair_has_one_plane_and_no_letters() -> None:
    grid = Grid((30, 20), (1.0, 2.0), (0.0, 0.0), (1.0, 0, 0, 1))
    image = Image(np.arange(600, dtype=np.uint8).reshape(20, 30), grid)
    scene = build_scene(image, image, image, identity(2))
    assert scene.fixed.shape == scene.jacobian.shape == (1, 20, 30)
    assert scene.mapped.shape == (1, 20, 30, 2)
    assert scene.letters == ()
    assert planes_of(scene) == (AXIAL,)


def test_constant_and_undefined_voxels_have_a_window() -> None:
    grid = grid_around((4, 4, 4), (1.0, 1.0, 1.0))
    assert grey_window(Image(np.full((4, 4, 4), 5, np.int16), grid)) == (5.0, 6.0)
    assert grey_window(Image(np.full((4, 4, 4), np.nan, np.float32), grid)) == (0.0, 1.0)


def test_choices_for_display(pair: Pair) -> None:
    scene = build_scene(pair.fixed, pair.moving, pair.warped, pair.transform)
    assert grid_spacing_mm(scene) == 10  # 180 mm in about two dozen lines
    assert [round_near(v) for v in (0.21, 7.2, 6.9, 20.8, 80.0)] == [0.2, 10, 5, 20, 100]
    assert jacobian_limit(np.array([1 / 1.4, 1.0, 1.2], np.float32)) == 1.5
    assert jacobian_limit(np.array([-1.0, np.nan], np.float32)) == 1.25
    assert jacobian_limit(np.array([9.0], np.float32)) == 4.0
    two_greys = np.repeat(np.array([20, 200], np.uint8), 50)
    assert 20 < otsu_level(two_greys) < 200
    x, y, z = focus_xyz(scene)
    np.testing.assert_allclose((x, y, z), np.array(scene.grid.size_xyz) / 2, atol=3)
