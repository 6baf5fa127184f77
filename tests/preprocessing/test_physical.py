"""The physical rule: grids that follow the anatomy, whatever way the image is stored."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from carl_cli.errors import InputError
from carl_cli.geometry import Grid, apply_affine
from carl_cli.io.images.files import Image, from_sitk, read_image, to_sitk
from carl_cli.preprocessing.options import ImageOptions
from carl_cli.preprocessing.pair import PreprocessRule, initialise, prepare_pair
from carl_cli.preprocessing.rule import grid_shape
from carl_cli.transforms import AffineTransform
from tests.conftest import make_grid, rotation

RULE = PreprocessRule(grid_rule="physical", max_voxels=64**3, multiple_of=8)
CENTRE = np.array([7.0, -5.0, 9.0])
RADII = np.array([30.0, 40.0, 24.0])


def head(points_mm: np.ndarray) -> np.ndarray:
    """An ellipsoid with a soft rim, some 4 mm wide, and a gentle gradient; 0 outside."""
    local = (points_mm - CENTRE) / RADII
    depth_mm = (1 - np.linalg.norm(local, axis=-1)) * RADII.min()
    rim = 1 / (1 + np.exp(-np.clip(depth_mm, -50, 50)))
    return (100 + 25 * local[..., 0] - 15 * local[..., 2]) * rim


def sampled(grid: Grid, value: Callable[[np.ndarray], np.ndarray] = head) -> Image:
    return Image(value(grid.points_mm()).astype(np.float32), grid)


def identity(size: int, spacing: float) -> Grid:
    return make_grid((size,) * 3, (spacing,) * 3)


VIEWS = {
    "plain": make_grid((80, 84, 70), (1.5, 1.5, 1.5), (4.0, -8.0, 10.0)),
    "anisotropic": make_grid((120, 130, 36), (1.0, 1.0, 3.0), (10.0, 0.0, 9.0)),
    "flipped": make_grid((80, 84, 70), (1.5, 1.5, 1.5), (4, -8, 10), np.diag([-1.0, -1.0, 1.0])),
    "permuted": make_grid((70, 80, 84), (1.5, 1.5, 1.5), (4, -8, 10), np.eye(3)[[1, 2, 0]]),
    "oblique": make_grid((90, 90, 90), (1.5, 1.4, 1.6), (4, -8, 10), rotation((15, -25, 35))),
}


@pytest.mark.parametrize("name", sorted(VIEWS))
def test_the_grid_is_centred_on_the_anatomy_and_aligned_with_lps(name: str) -> None:
    prepared = prepare_pair(sampled(VIEWS[name]), sampled(VIEWS["plain"]), RULE)
    for one in (prepared.fixed, prepared.moving):
        np.testing.assert_array_equal(one.grid.direction_matrix, np.eye(3))
        assert len(set(one.grid.spacing_mm)) == 1
        np.testing.assert_allclose(one.grid.centre_mm, CENTRE, atol=0.5)
        low, high = one.grid.corners_mm().min(axis=0), one.grid.corners_mm().max(axis=0)
        assert np.all(low < CENTRE - RADII)
        assert np.all(high > CENTRE + RADII)
    assert prepared.fixed.grid.size_xyz == prepared.moving.grid.size_xyz
    assert prepared.fixed.grid.spacing_mm == prepared.moving.grid.spacing_mm


@pytest.mark.parametrize("name", sorted(VIEWS))
def test_arrays_hold_the_closed_form_however_stored(name: str) -> None:
    prepared = prepare_pair(sampled(VIEWS[name]), sampled(VIEWS["plain"]), RULE).fixed
    low, high, modality = prepared.intensity
    points = prepared.grid.points_mm()
    expected = np.clip((head(points) - low) / (high - low), 0, 1)
    rim = np.abs(np.linalg.norm((points - CENTRE) / RADII, axis=-1) - 1) * RADII.min() < 8
    assert modality == "mr"
    assert np.abs(prepared.array - expected)[~rim].max() < 0.01
    assert np.abs(prepared.array - expected).mean() < 0.005
    assert prepared.array.dtype == np.float32
    assert prepared.array.min() == pytest.approx(0.0, abs=1e-6)
    assert prepared.array.max() == 1.0


@pytest.mark.parametrize("rule", [RULE, PreprocessRule(grid_rule="physical")])
def test_eight_orientations_of_one_head_agree(data_dir: Path, rule: PreprocessRule) -> None:
    """The second rule's voxel centres fall on the very border of the field of view."""
    paths = sorted((data_dir / "formats" / "one_head_many_orientations").glob("*.nii.gz"))
    assert len(paths) == 8
    first = read_image(paths[0])
    reference = prepare_pair(first, first, rule).fixed
    for path in paths[1:]:
        found = prepare_pair(first, read_image(path), rule).moving
        assert found.grid.matches(reference.grid)
        assert np.abs(found.array - reference.array).max() < 1e-5


@pytest.mark.parametrize("name", ["plain", "oblique"])
def test_a_translation_in_the_header_changes_no_bit(name: str) -> None:
    offset = np.array([1_234_567.123, -30.777, 51.31])  # far: rounding would show
    image = sampled(VIEWS[name])
    origin = tuple(np.array(image.grid.origin_mm) + offset)
    elsewhere = replace(image, grid=replace(image.grid, origin_mm=origin))
    here = prepare_pair(sampled(VIEWS["flipped"]), image, RULE)
    there = prepare_pair(sampled(VIEWS["flipped"]), elsewhere, RULE)
    assert np.array_equal(here.moving.array, there.moving.array)
    assert np.array_equal(here.fixed.array, there.fixed.array)
    moved = np.array(there.moving.grid.origin_mm) - here.moving.grid.origin_mm
    np.testing.assert_allclose(moved, offset, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_content_moved_inside_a_large_view_gives_nearly_the_same_array(seed: int) -> None:
    offset = np.random.default_rng(seed).uniform(-25, 25, 3)
    view = make_grid((110, 120, 100), (1.5, 1.5, 1.5), tuple(CENTRE))
    still = sampled(view)
    moved = sampled(view, lambda points: head(points - offset))
    a, b = (prepare_pair(image, image, RULE).fixed for image in (still, moved))
    shift_mm = b.grid.centre_mm - a.grid.centre_mm - offset
    assert np.abs(shift_mm).max() < 0.1 * a.grid.spacing_mm[0]
    assert abs(b.grid.spacing_mm[0] / a.grid.spacing_mm[0] - 1) < 0.003
    assert a.array.shape == b.array.shape
    assert np.abs(a.array - b.array).mean() < 0.002


@pytest.mark.parametrize("noise", [0.05, 0.15])
def test_noise_in_the_air_does_not_move_the_box(noise: float) -> None:
    clean = sampled(make_grid((110, 120, 100), (1.5, 1.5, 1.5), (20.0, -10.0, 0.0)))
    rng = np.random.default_rng(5)
    real, imaginary = rng.normal(0, 100 * noise, (2, *clean.array.shape))
    noisy = replace(clean, array=np.hypot(clean.array + real, imaginary).astype(np.float32))
    a, b = (prepare_pair(image, image, RULE).fixed for image in (clean, noisy))
    np.testing.assert_allclose(a.grid.centre_mm, b.grid.centre_mm, atol=0.5)
    assert abs(b.grid.spacing_mm[0] / a.grid.spacing_mm[0] - 1) < 0.03


def test_bright_lumps_in_the_air_do_not_count() -> None:
    clean = sampled(identity(100, 1.5))
    specks = clean.array.copy()
    specks[5:17, 5:17, 5:17] = specks[-17:-5, -17:-5, -17:-5] = 400
    a = prepare_pair(clean, clean, RULE).fixed
    b = prepare_pair(clean, replace(clean, array=specks), RULE).moving
    np.testing.assert_allclose(a.grid.corners_mm(), b.grid.corners_mm(), atol=1.0)


def test_anatomy_that_fills_the_view_gets_the_view() -> None:
    view = make_grid((36, 50, 30), (1.5, 1.5, 1.5), tuple(CENTRE))
    image = sampled(view)
    prepared = prepare_pair(image, image, PreprocessRule(grid_rule="physical", multiple_of=1)).fixed
    np.testing.assert_allclose(prepared.grid.centre_mm, view.centre_mm, atol=1e-9)
    assert prepared.grid.size_xyz == view.size_xyz
    assert prepared.grid.spacing_mm == pytest.approx(view.spacing_mm)


@pytest.mark.parametrize("subject", ["subject01", "subject04", "subject09"])
def test_no_labelled_voxel_of_a_head_is_cropped(data_dir: Path, subject: str) -> None:
    labels = read_image(data_dir / "brain_label_maps" / f"{subject}.nii.gz")
    values = np.where(labels.array > 0, 60 + labels.array % 64, 0).astype(np.uint8)
    half = to_sitk(replace(labels, array=values))[::2, ::2, ::2]
    padded = from_sitk(sitk.ConstantPad(half, [15, 0, 12], [3, 20, 0]))
    assert lost_part(padded, padded.array > 0) < 1e-4


@pytest.mark.parametrize("case", ["0004", "0006", "0007"])
def test_no_lung_is_cropped(data_dir: Path, case: str) -> None:
    folder = data_dir / "lung_mr_lobes"
    lobes = read_image(folder / f"{case}_seg.nii.gz").array > 0
    assert lost_part(read_image(folder / f"{case}.nii.gz"), lobes) == 0


def lost_part(image: Image, inside: np.ndarray) -> float:
    """Part of the marked voxels whose centres lie outside the network grid."""
    grid = prepare_pair(image, image, RULE).fixed.grid
    points = image.grid.points_mm()[inside]
    index = apply_affine(grid.lps_to_index, points)
    outside = np.any((index < -0.5) | (index > np.array(grid.size_xyz) - 0.5), axis=1)
    return float(outside.mean())


def test_the_bigger_foreground_sizes_both_grids() -> None:
    big = sampled(identity(100, 1.5))
    small = sampled(identity(100, 1.5), lambda p: head((p - CENTRE) * 1.6 + CENTRE))
    alone = prepare_pair(big, big, RULE).fixed
    prepared = prepare_pair(small, big, RULE)
    assert prepared.fixed.grid.size_xyz == alone.grid.size_xyz
    assert prepared.fixed.grid.spacing_mm == pytest.approx(alone.grid.spacing_mm)


def test_spacing_is_never_finer_than_the_images_or_the_rule() -> None:
    image = sampled(identity(50, 3.0))
    assert prepare_pair(image, image, RULE).fixed.grid.spacing_mm == (3.0, 3.0, 3.0)
    coarser = RULE.model_copy(update={"min_spacing_mm": 4.0})
    assert prepare_pair(image, image, coarser).fixed.grid.spacing_mm == (4.0, 4.0, 4.0)


extents = st.tuples(*[st.floats(5, 900)] * 3)


@settings(max_examples=60, deadline=None)
@given(extents, st.sampled_from([1, 8, 32]), st.sampled_from([32**3, 64**3, 128**3]))
def test_grid_shape_is_the_finest_that_fits(extent, multiple_of, budget) -> None:
    size, spacing = grid_shape(extent, multiple_of, budget, 0.0)
    assert math.prod(size) <= budget
    assert all(n % multiple_of == 0 for n in size)
    assert all(n * spacing >= e * (1 - 1e-6) for n, e in zip(size, extent, strict=True))
    finer = spacing * (1 - 1e-4)
    blocks = [math.ceil(e / (multiple_of * finer)) for e in extent]
    assert math.prod(blocks) * multiple_of**3 > budget


def test_two_dimensions() -> None:
    view = Grid((100, 120), (1.5, 1.5), (-60.0, -90.0), (1.0, 0.0, 0.0, 1.0))
    turned = Grid((160, 150), (1.5, 1.5), (60.0, 120.0), (0.0, -1.0, -1.0, 0.0))
    disc = [
        Image((100.0 * (np.hypot(*np.moveaxis(g.points_mm() - [4, 6], -1, 0)) < 40)), g)
        for g in (view, turned)
    ]
    prepared = prepare_pair(*disc, PreprocessRule(grid_rule="physical", max_voxels=64**2))
    for one in (prepared.fixed, prepared.moving):
        np.testing.assert_allclose(one.grid.centre_mm, [4, 6], atol=0.5)
    assert np.abs(prepared.fixed.array - prepared.moving.array).mean() < 0.01


def test_the_same_call_gives_the_same_bits() -> None:
    pair = sampled(VIEWS["oblique"]), sampled(VIEWS["anisotropic"])
    first, second = prepare_pair(*pair, RULE), prepare_pair(*pair, RULE)
    assert np.array_equal(first.fixed.array, second.fixed.array)
    assert np.array_equal(first.moving.array, second.moving.array)
    assert first.moving.grid == second.moving.grid


def test_inputs_are_left_alone() -> None:
    image = sampled(VIEWS["plain"])
    before = image.array.copy()
    prepare_pair(image, image, RULE)
    assert np.array_equal(image.array, before)


def test_an_initial_transform_puts_the_moving_image_on_the_fixed_grid() -> None:
    turn = rotation((8, -12, 20))
    initial = AffineTransform(turn, np.array([60.0, -20.0, 35.0]))
    fixed = sampled(VIEWS["plain"])
    view = make_grid((150, 150, 150), (1.5, 1.5, 1.5), tuple(initial(CENTRE)))
    moving = sampled(view, lambda points: head(initial.inverse()(points)))
    bright = replace(moving, array=(moving.array > np.percentile(moving.array, 95)).astype("uint8"))
    prepared = prepare_pair(fixed, moving, RULE, initial=initial)
    masked = prepare_pair(fixed, moving, RULE, initial=initial, moving_mask=bright)
    assert prepared.initial is initial
    low, high, _ = prepared.moving.intensity
    limit = (np.percentile(moving.array, 95) - low) / (high - low)
    assert np.mean(masked.moving.mask != (prepared.moving.array > limit)) < 0.01
    assert prepared.moving.grid == prepared.fixed.grid
    assert np.abs(prepared.fixed.array - prepared.moving.array).mean() < 0.005
    without = prepare_pair(fixed, moving, RULE)
    assert np.abs(without.fixed.array - without.moving.array).mean() > 0.02


def test_an_initial_transform_that_loses_the_image_is_refused() -> None:
    image = sampled(VIEWS["plain"])
    away = AffineTransform(np.eye(3), np.array([5000.0, 0, 0]))
    with pytest.raises(InputError, match="nothing of it"):
        prepare_pair(image, image, RULE, initial=away)


@pytest.mark.parametrize("name", sorted(VIEWS))
def test_initialise_finds_the_translation(name: str) -> None:
    offset = np.array([33.0, -12.0, 20.0])
    view = make_grid((110, 120, 100), (1.6, 1.6, 1.6), (25.0, -10.0, 20.0))
    moving = sampled(view, lambda points: 3 * head(points - offset) + 11)
    fixed = sampled(VIEWS[name])
    moments = initialise(fixed, moving, "moments")
    np.testing.assert_allclose(moments.translation, offset, atol=0.3)
    centers = initialise(fixed, moving, "centers")
    np.testing.assert_allclose(centers(fixed.grid.centre_mm), view.centre_mm, atol=1e-9)
    np.testing.assert_array_equal(moments.matrix, np.eye(3))


def test_initialise_reads_each_image_by_its_own_modality() -> None:
    """A head in HU, and metal beside it: by percentiles the metal alone stands out, in HU both
    count by their volumes."""
    metal = np.array([75.0, 0.0, 0.0])

    def values(points: np.ndarray) -> np.ndarray:
        return 10 * head(points) - 1000 + 60000 * (np.linalg.norm(points - metal, axis=-1) < 24)

    image = sampled(make_grid((90, 80, 80), (2.0, 2.0, 2.0), (20.0, 0.0, 0.0)), values)
    options = ImageOptions(fixed_modality="mr", moving_modality="ct")
    found = initialise(image, image, "moments", options).translation
    share = RADII.prod() / (RADII.prod() + 24**3)
    np.testing.assert_allclose(found, share * (CENTRE - metal), atol=0.5)
