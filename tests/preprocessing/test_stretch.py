"""The stretch rule against torch's interpolate, by which the reference resizes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from carl_cli.errors import InputError
from carl_cli.geometry import Grid, apply_affine
from carl_cli.io.images.files import Image, from_sitk, to_sitk
from carl_cli.preprocessing.pair import IntensityRule, PreprocessRule, prepare_pair

PERCENT = IntensityRule(ct_window=None, lower_percentile=0, percentiles_of="image")
SHAPES = [(13, 17, 11), (40, 20, 31), (26, 28, 30)]


def reference_resize(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Minimum to 99th percentile → [0, 1], then interpolated as the reference does."""
    low, high = array.min(), np.percentile(array, 99)
    scaled = np.clip((array.astype(np.float32) - low) / (high - low), 0, 1).astype(np.float32)
    mode = "trilinear" if array.ndim == 3 else "bilinear"
    tensor = torch.from_numpy(scaled)[None, None]
    resized = torch.nn.functional.interpolate(tensor, shape, mode=mode, align_corners=False)
    return resized[0, 0].numpy()


def stretch(shape: tuple[int, ...], **fields: object) -> PreprocessRule:
    fields = {"anti_alias": False, "intensity": PERCENT} | fields
    return PreprocessRule(grid_rule="stretch", shape_zyx=shape, **fields)


@pytest.mark.parametrize("shape", SHAPES)
def test_equal_to_torch_interpolate(any_grid: Grid, make_image, shape) -> None:
    image = make_image(any_grid, "int16")
    prepared = prepare_pair(image, image, stretch(shape)).fixed
    assert prepared.intensity == (image.array.min(), np.percentile(image.array, 99), "mr")
    assert np.abs(prepared.array - reference_resize(image.array, shape)).max() < 2e-6


def test_equal_to_torch_interpolate_in_two_dimensions() -> None:
    array = np.random.default_rng(0).normal(size=(37, 52)).astype(np.float32)
    image = Image(array, Grid((52, 37), (0.7, 1.3), (5.0, -3.0), (0.8, -0.6, 0.6, 0.8)))
    prepared = prepare_pair(image, image, stretch((20, 64))).moving
    assert np.abs(prepared.array - reference_resize(array, (20, 64))).max() < 2e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_voxel_i_lies_at_the_documented_place(any_grid: Grid, make_image, shape) -> None:
    image = make_image(any_grid)
    grid = prepare_pair(image, image, stretch(shape)).fixed.grid
    index = np.array([2.0, 5.0, 3.0])
    ratio = np.array(any_grid.size_xyz) / shape[::-1]
    there = apply_affine(any_grid.index_to_lps, (index + 0.5) * ratio - 0.5)
    np.testing.assert_allclose(apply_affine(grid.index_to_lps, index), there, atol=1e-9)
    np.testing.assert_allclose(grid.corners_mm(), any_grid.corners_mm(), atol=1e-9)


def test_parity_points_of_the_reference(parity_dir: Path) -> None:
    """phi read on our network grids sends points where the reference's transform does."""
    stored = np.load(parity_dir / "physical_points.npz")
    phi = stored["phi_AB"].astype(float)
    fixed, moving = (_network_grid(stored, name, phi.shape[1:]) for name in ("fixed", "moving"))
    last = np.array(phi.shape[1:]) - 1
    target = apply_affine(moving.index_to_lps, (np.moveaxis(phi, 0, -1) * last)[..., ::-1])
    index = apply_affine(fixed.lps_to_index, stored["fixed_points_lps"])[:, ::-1]
    found = np.stack([_trilinear(target[..., k], index) for k in range(3)], axis=-1)
    inside = np.all((index >= 0) & (index <= last), axis=1)
    gap_mm = np.linalg.norm(found - stored["moving_points_lps"], axis=1)[inside]
    assert len(gap_mm) > 100
    assert gap_mm.max() < 1e-3


def _network_grid(stored: np.lib.npyio.NpzFile, name: str, shape: tuple[int, ...]) -> Grid:
    parts = [stored[f"{name}_{part}"] for part in ("size", "spacing", "origin", "direction")]
    grid = Grid(*(tuple(p.ravel().tolist()) for p in parts))
    image = Image(np.random.default_rng(1).random(grid.shape_zyx).astype(np.float32), grid)
    return prepare_pair(image, image, stretch(shape)).fixed.grid


def _trilinear(values: np.ndarray, index_zyx: np.ndarray) -> np.ndarray:
    base = np.clip(np.floor(index_zyx).astype(int), 0, np.array(values.shape) - 2)
    part = index_zyx - base
    total = np.zeros(len(index_zyx))
    for corner in itertools.product((0, 1), repeat=3):
        weight = np.prod(np.where(corner, part, 1 - part), axis=1)
        total += weight * values[tuple((base + corner).T)]
    return total


def test_orientation_turns_axes_as_itk_does(any_grid: Grid, make_image) -> None:
    image = make_image(any_grid)
    turned = from_sitk(sitk.DICOMOrient(to_sitk(image), "LPI"))
    direct = prepare_pair(image, image, stretch((9, 10, 12), orientation="LPI")).fixed
    reference = prepare_pair(turned, turned, stretch((9, 10, 12))).fixed
    assert np.abs(direct.array - reference.array).max() < 2e-6
    assert direct.grid.matches(reference.grid)


def test_uniform_borders_are_cut(make_image, grids) -> None:
    inner = make_image(grids["oblique"])
    padded = from_sitk(sitk.ConstantPad(to_sitk(inner), [3, 0, 5], [1, 4, 2], -7.0))
    found = prepare_pair(padded, inner, stretch((12, 14, 16), crop_uniform=1))
    cut = from_sitk(sitk.Crop(to_sitk(inner), [1, 1, 1], [1, 1, 1]))
    expected = prepare_pair(cut, cut, stretch((12, 14, 16))).fixed
    for one in (found.fixed, found.moving):
        assert np.abs(one.array - expected.array).max() < 1e-5
        assert one.grid.matches(expected.grid)


def test_low_pass_removes_what_the_coarser_grid_cannot_hold() -> None:
    """A wave of 3.3 voxels sampled at every fourth: aliased without, flat with the low-pass."""
    x = np.arange(120)
    line = np.sin(2 * np.pi * x / 3.3) + np.linspace(-2, 2, 120)
    grid = Grid((120, 40, 40), (1.0,) * 3, (0.0,) * 3, tuple(np.eye(3).ravel()))
    image = Image((line * np.ones((40, 40, 1))).astype(np.float32), grid)
    ripple = {}
    for anti_alias in (False, True):
        prepared = prepare_pair(image, image, stretch((40, 40, 30), anti_alias=anti_alias)).fixed
        low, high, _ = prepared.intensity
        at = (np.arange(30) + 0.5) * 4 - 0.5
        straight = np.interp(at, x, np.linspace(-2, 2, 120))
        ripple[anti_alias] = np.std((prepared.array[20, 20] * (high - low) + low - straight)[4:-4])
    assert ripple[False] > 0.3
    assert ripple[True] < 0.02


def test_weights_of_another_dimension_are_refused(make_image, grids) -> None:
    image = make_image(grids["plain"])
    with pytest.raises(InputError, match="3 dimensions"):
        prepare_pair(image, image, stretch((10, 10)))
